//! What became of the creations of a plan, for the report that is published.

use std::collections::BTreeMap;

use crate::act::{CreateError, CreateOutcome};
use crate::cloud::CloudErrorKind;
use crate::decide::{Create, Refused, Tried};
use crate::model::{History, MachineName, MachinetypeName, Timestamp};

/// Sorts creations by how they went.
pub(super) fn of(creates: Vec<Create>, outcomes: &[CreateOutcome]) -> Tried {
    let mut failed: BTreeMap<&MachineName, &CreateError> = BTreeMap::new();
    let mut refused = BTreeMap::new();
    for outcome in outcomes {
        let Err(error) = &outcome.result else {
            continue;
        };
        // It may exist: as long as nobody knows, it is counted.
        if matches!(error, CreateError::Cloud(error) if error.kind == CloudErrorKind::Ambiguous) {
            continue;
        }
        failed.insert(&outcome.machine, error);
        let told = Refused {
            failures: 0,
            error: error.to_string(),
        };
        // That more was not tried follows from what was.
        if matches!(error, CreateError::NotTried(_)) {
            refused.entry(outcome.machinetype.clone()).or_insert(told);
        } else {
            refused.insert(outcome.machinetype.clone(), told);
        }
    }
    let made = creates.into_iter();
    let made = made.filter(|create| !failed.contains_key(&create.machine));
    Tried {
        made: made.collect(),
        refused,
    }
}

/// Nothing was tried, for this reason.
pub(super) fn none(creates: &[Create], why: &str) -> Tried {
    let refused = creates.iter().map(|create| {
        let refused = Refused {
            failures: 0,
            error: format!("not tried: {why}"),
        };
        (create.machinetype.clone(), refused)
    });
    Tried {
        made: Vec::new(),
        refused: refused.collect(),
    }
}

/// Adds how many have failed in a row, of those machinetypes against which `now` is held.
pub(super) fn count_failures(
    tried: &mut Tried,
    history: &BTreeMap<MachinetypeName, History>,
    now: Timestamp,
) {
    for (machinetype, refused) in &mut tried.refused {
        let history = history.get(machinetype);
        let history = history.filter(|history| history.last_failure == Some(now));
        refused.failures = history.map_or(0, |history| history.failures);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::CloudError;
    use crate::model::CloudId;

    const NAMES: [&str; 4] = [
        "vcycle-a-0000000000",
        "vcycle-a-0000000001",
        "vcycle-a-0000000002",
        "vcycle-b-0000000003",
    ];

    #[test]
    fn only_what_is_there_or_may_be_is_counted_and_the_error_that_was_met_is_told() {
        let name = |text: &str| MachineName::new(text).unwrap();
        let creates: Vec<Create> = NAMES
            .map(|text| Create {
                machine: name(text),
                machinetype: name(text).machinetype().unwrap(),
                placements: Vec::new(),
            })
            .into();
        let error = |kind, text: &str| CreateError::Cloud(CloudError::new(kind, "POST", text));
        let results = [
            Err(error(CloudErrorKind::Rejected, "no such image")),
            Err(CreateError::NotTried("3 errors in a row".to_owned())),
            Err(error(CloudErrorKind::Ambiguous, "the answer was lost")),
            Ok(CloudId::new("id")),
        ];
        let outcomes: Vec<CreateOutcome> = creates
            .iter()
            .zip(results)
            .map(|(create, result)| CreateOutcome {
                machine: create.machine.clone(),
                machinetype: create.machinetype.clone(),
                files: None,
                result,
                no_room: Vec::new(),
            })
            .collect();
        let tried = of(creates.clone(), &outcomes);
        assert_eq!(tried.made, creates[2..]);
        assert_eq!(tried.refused.len(), 1);
        let refused = tried.refused.first_key_value().unwrap().1;
        assert!(refused.error.contains("no such image"), "{refused:?}");
    }
}
