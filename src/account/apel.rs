//! The text of an `APEL-individual-job-message` v0.3. Pure: facts in, text out.

use std::fmt::Write;

use crate::config::{Benchmark, MachinetypeConfig, SpaceConfig};
use crate::model::{FactoryName, Hs06, MachineFiles, Processors, Timestamp};

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    site: String,
    submit_host: String,
    /// Identifies the machine: the cloud's identifier of it.
    pub local_job_id: String,
    local_user_id: String,
    queue: String,
    global_user_name: String,
    fqan: Option<String>,
    /// When the machine began to run.
    pub start: Timestamp,
    /// When it ended; never before `start`.
    pub end: Timestamp,
    processors: Processors,
    memory_kb: Option<u64>,
    service_level_type: &'static str,
    service_level: f64,
}

/// The record of a machine that ran from `start` to `end`. `machinetype` is `None` when it has
/// left the configuration; then what its directory says is used.
pub fn record(
    space: &SpaceConfig,
    machinetype: Option<&MachinetypeConfig>,
    files: &MachineFiles,
    factory: &FactoryName,
    (start, end): (Timestamp, Timestamp),
) -> Record {
    let processors = files
        .processors
        .or(machinetype.map(|configured| configured.min_processors))
        .unwrap_or(Processors::ONE)
        .max(Processors::ONE);
    let (service_level_type, service_level) =
        service_level(space.benchmark, machinetype, files, processors);
    Record {
        site: space
            .gocdb_sitename
            .clone()
            .unwrap_or_else(|| space.name.to_string()),
        submit_host: format!("{}/vcycle-{factory}", space.name),
        local_job_id: files
            .id
            .as_ref()
            .map_or_else(|| files.name.to_string(), ToString::to_string),
        local_user_id: factory.to_string(),
        queue: files.machinetype.to_string(),
        global_user_name: global_user_name(space.name.as_str()),
        fqan: match machinetype {
            Some(configured) => configured.accounting_fqan.clone(),
            None => files.accounting_fqan.clone(),
        }
        .filter(|fqan| !fqan.trim().is_empty()),
        start,
        end: end.max(start),
        processors,
        memory_kb: files.memory_bytes.map(|bytes| bytes / 1024),
        service_level_type,
        service_level,
    }
}

/// Name and value of the benchmark, per processor, as APEL counts.
fn service_level(
    benchmark: Benchmark,
    machinetype: Option<&MachinetypeConfig>,
    files: &MachineFiles,
    processors: Processors,
) -> (&'static str, f64) {
    match benchmark {
        Benchmark::Hepscore23 => (
            "hepscore23",
            machinetype
                .and_then(|configured| configured.hepscore23_per_processor)
                .or(files.hepscore23_per_processor)
                .unwrap_or(1.0),
        ),
        Benchmark::Hepspec => {
            let per_processor = machinetype
                .and_then(|configured| {
                    configured
                        .hs06_per_processor
                        .or(configured.hs06.map(|whole| whole.per(processors)))
                })
                .or(files.hs06.map(|whole| whole.per(processors)))
                .unwrap_or(Hs06::DEFAULT);
            ("HEPSPEC", per_processor.get())
        }
    }
}

/// `a.b.c` as `/DC=c/DC=b/DC=a`.
fn global_user_name(space: &str) -> String {
    space.rsplit('.').fold(String::new(), |mut name, part| {
        name.push_str("/DC=");
        name.push_str(part);
        name
    })
}

impl Record {
    /// The text of the record, closing line included. Text is ASCII on one line each, whatever
    /// the configuration says, because a server refuses the whole message otherwise.
    pub fn to_message(&self) -> String {
        let mut message = String::from("APEL-individual-job-message: v0.3\n");
        let mut field = |name: &str, value: &str| {
            let value: String = value
                .chars()
                .map(|c| {
                    if c.is_ascii_graphic() || c == ' ' {
                        c
                    } else {
                        '?'
                    }
                })
                .collect();
            // Writing to a String cannot fail.
            let _infallible = writeln!(message, "{name}: {value}");
        };
        let wall = self.end.since(self.start).to_string();
        field("Site", &self.site);
        field("SubmitHost", &self.submit_host);
        field("LocalJobId", &self.local_job_id);
        field("LocalUserId", &self.local_user_id);
        field("Queue", &self.queue);
        field("GlobalUserName", &self.global_user_name);
        if let Some(fqan) = &self.fqan {
            field("FQAN", fqan);
        }
        field("WallDuration", &wall);
        field("CpuDuration", &wall);
        field("Processors", &self.processors.to_string());
        field("NodeCount", "1");
        field("InfrastructureDescription", "APEL-VCYCLE");
        field("InfrastructureType", "grid");
        field("StartTime", &self.start.to_string());
        field("EndTime", &self.end.to_string());
        if let Some(kb) = self.memory_kb {
            field("MemoryReal", &kb.to_string());
            field("MemoryVirtual", &kb.to_string());
        }
        field("ServiceLevelType", self.service_level_type);
        field("ServiceLevel", &format!("{:?}", self.service_level));
        message.push_str("%%\n");
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::testing;

    #[test]
    fn a_record_has_its_fields_in_order() {
        let mut space = testing::space("max_machines = 10");
        space.gocdb_sitename = Some("UKI-EXAMPLE\u{e9}".to_owned());
        let machinetype = testing::machinetype("a", "");
        let mut files = testing::files("vcycle-a-aaaaaaaaaa", 1000);
        files.id = Some(crate::model::CloudId::new("uuid-1"));
        files.processors = Some(Processors::new(4));
        files.memory_bytes = Some(8 << 30);
        let mut configured = machinetype;
        configured.hs06 = Some(Hs06::new(50.0).unwrap());
        configured.accounting_fqan = Some("/atlas/Role=NULL/Capability=NULL".to_owned());
        let factory = FactoryName::new("factory.example.org").unwrap();
        let times = (Timestamp::from_unix(2000), Timestamp::from_unix(5600));
        let record = record(&space, Some(&configured), &files, &factory, times);
        assert_eq!(
            record.to_message(),
            "APEL-individual-job-message: v0.3\n\
             Site: UKI-EXAMPLE?\n\
             SubmitHost: example.org/vcycle-factory.example.org\n\
             LocalJobId: uuid-1\n\
             LocalUserId: factory.example.org\n\
             Queue: a\n\
             GlobalUserName: /DC=org/DC=example\n\
             FQAN: /atlas/Role=NULL/Capability=NULL\n\
             WallDuration: 3600\n\
             CpuDuration: 3600\n\
             Processors: 4\n\
             NodeCount: 1\n\
             InfrastructureDescription: APEL-VCYCLE\n\
             InfrastructureType: grid\n\
             StartTime: 2000\n\
             EndTime: 5600\n\
             MemoryReal: 8388608\n\
             MemoryVirtual: 8388608\n\
             ServiceLevelType: HEPSPEC\n\
             ServiceLevel: 12.5\n\
             %%\n"
        );
    }

    #[test]
    fn without_fqan_and_power_there_is_no_empty_field() {
        let space = testing::space("max_machines = 10");
        let machinetype = testing::machinetype("a", "");
        let files = testing::files("vcycle-a-aaaaaaaaaa", 1000);
        let factory = FactoryName::new("f").unwrap();
        // A clock that stepped back between start and end gives a duration of 0.
        let times = (Timestamp::from_unix(2000), Timestamp::from_unix(1000));
        let text = record(&space, Some(&machinetype), &files, &factory, times).to_message();
        assert!(text.contains("Site: example.org\n"), "{text}");
        assert!(!text.contains("FQAN"), "{text}");
        assert!(text.contains("WallDuration: 0\n"), "{text}");
        assert!(text.contains("StartTime: 2000\nEndTime: 2000\n"), "{text}");
        assert!(text.contains("ServiceLevel: 1.0\n"), "{text}");
    }
}
