//! Making and terminating instances.
//!
//! The request that makes one is sent once. What came back decides whether a machine may exist:
//! that rule is [`Problem::kind`].

use aws_sdk_ec2::error::SdkError;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesFluentBuilder;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, Instance, InstanceAttributeName,
    InstanceMarketOptionsRequest, InstanceStateName, InstanceType, MarketType, Placement,
    ResourceType, SpotInstanceType, SpotMarketOptions, TagSpecification,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tracing::debug;

use super::errors::{Doing, Problem};
use super::images::Image;
use super::instance::is_identifier;
use super::{Ec2, blame, tags};
use crate::cloud::{CloudError, CloudErrorKind, CreateRequest, Deletion};
use crate::model::leftover::MANAGER_MARK;
use crate::model::{CloudId, CloudMachine, Gigabytes, MachineState, Secret};

const ACTION: &str = "RunInstances";
/// The most user_data that EC2 takes, in bytes before they are encoded.
const MAX_USER_DATA: usize = 16 * 1024;

impl Ec2 {
    pub(super) async fn run_instance(&self, wanted: &CreateRequest) -> Result<CloudId, CloudError> {
        let user_data = encode_user_data(wanted)?;
        if let Some(manager) = wanted.metadata.get(MANAGER_MARK) {
            self.memory.set_manager(manager);
        }
        let image = self.image(&wanted.image, wanted.volume.is_some()).await?;
        let key = match &wanted.public_key {
            Some(text) => Some(self.key_name(text, &wanted.metadata).await?),
            None => None,
        };
        let request = self.request(wanted, &image, key)?;
        let request = request.user_data(&user_data);
        let made = match request.send().await {
            Ok(answer) => the_instance(answer.instances.unwrap_or_default())
                .ok_or_else(|| self.ambiguous("it names no instance, or more than one")),
            Err(error) => Err(self.not_made(wanted, error, &user_data).await),
        };
        let id = made?;
        self.memory.made(self.new_machine(wanted, &id));
        if self.version.has_tag_specifications() {
            self.memory.set_needs_no_tags(&id);
        }
        Ok(id)
    }

    fn request(
        &self,
        wanted: &CreateRequest,
        image: &Image,
        key: Option<String>,
    ) -> Result<RunInstancesFluentBuilder, CloudError> {
        let mut request = self
            .client
            .run_instances()
            .min_count(1)
            .max_count(1)
            .image_id(&image.id)
            .instance_type(InstanceType::from(wanted.flavor.id.as_str()))
            .set_key_name(key)
            .set_subnet_id(self.options.network_uuid.clone());
        for group in &self.options.security_groups {
            request = if group.starts_with("sg-") {
                request.security_group_ids(group)
            } else {
                request.security_groups(group)
            };
        }
        if let Some(zone) = &wanted.zone {
            request = request.placement(Placement::builder().availability_zone(zone).build());
        }
        if let Some(size) = wanted.volume {
            request = request.block_device_mappings(self.root_volume(image, size)?);
        }
        if self.options.spot {
            request = request.instance_market_options(spot());
        }
        if self.version.has_tokens() {
            request = request.client_token(self.token(wanted, image));
        }
        if self.version.has_tag_specifications() {
            for resource in [
                Some(ResourceType::Instance),
                wanted.volume.map(|_| ResourceType::Volume),
            ]
            .into_iter()
            .flatten()
            {
                let specification = TagSpecification::builder()
                    .resource_type(resource)
                    .set_tags(Some(tags::of(&wanted.metadata)));
                request = request.tag_specifications(specification.build());
            }
        }
        Ok(request)
    }

    fn token(&self, wanted: &CreateRequest, image: &Image) -> String {
        let volume = wanted.volume.map(Gigabytes::get);
        let parameters = (&wanted.flavor.id, &wanted.zone, &image.id, volume);
        self.memory.token(&wanted.name, format!("{parameters:?}"))
    }

    fn root_volume(
        &self,
        image: &Image,
        size: Gigabytes,
    ) -> Result<BlockDeviceMapping, CloudError> {
        let refused =
            |why: String| CloudError::new(CloudErrorKind::Rejected, self.operation(ACTION), why);
        let device = image.root_device.as_deref().ok_or_else(|| {
            refused(format!(
                "not sent: volume_gb_per_processor asks for a volume, and the image {} names no \
                 root device",
                image.id
            ))
        })?;
        let size = i32::try_from(size.get())
            .map_err(|_| refused(format!("not sent: a volume of {size} GB is too large")))?;
        let volume = EbsBlockDevice::builder()
            .volume_size(size)
            .delete_on_termination(true)
            .build();
        Ok(BlockDeviceMapping::builder()
            .device_name(device)
            .ebs(volume)
            .build())
    }

    /// The error of a request that was answered badly or not at all.
    async fn not_made<E>(
        &self,
        wanted: &CreateRequest,
        error: SdkError<E, aws_smithy_runtime_api::client::orchestrator::HttpResponse>,
        user_data: &str,
    ) -> CloudError
    where
        E: aws_sdk_ec2::error::ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let problem = Problem::from(error);
        let code = problem.code().to_owned();
        if code.starts_with("InvalidAMI") || code.starts_with("InvalidKeyPair") {
            // It is not there any more: look again next time.
            self.images.forget().await;
            self.keys.forget().await;
        }
        let secrets = [self.secret(), user_data];
        let mut error = problem.error(Doing::Create, &self.operation(ACTION), &secrets);
        if let Some(option) = blame::option(&code, &error.message, wanted, &self.options) {
            error.message = format!("{} ({option})", error.message);
        }
        error
    }

    fn ambiguous(&self, why: &str) -> CloudError {
        CloudError {
            kind: CloudErrorKind::Ambiguous,
            ..self.unreadable(ACTION, why)
        }
    }

    /// The machine as a listing that already knew it would have it.
    fn new_machine(&self, wanted: &CreateRequest, id: &CloudId) -> CloudMachine {
        let marked = self.version.has_tag_specifications();
        CloudMachine {
            id: id.clone(),
            name: wanted.name.to_string(),
            state: MachineState::Starting,
            status: "pending".to_owned(),
            created: None,
            started: None,
            updated: None,
            processors: Some(wanted.flavor.processors),
            address: None,
            zone: wanted.zone.clone(),
            key: None,
            image: None,
            volumes: Vec::new(),
            fault: None,
            shortage: None,
            marks: marked.then(|| tags::marks(&wanted.metadata)).flatten(),
        }
    }

    pub(super) async fn terminate(&self, id: &CloudId) -> Result<Deletion, CloudError> {
        const ACTION: &str = "TerminateInstances";
        let request = self.client.terminate_instances().instance_ids(id.as_str());
        let answer = match request.send().await.map_err(Problem::from) {
            Ok(answer) => answer,
            Err(problem) if problem.is_unknown_instance() && !self.memory.is_settling(id) => {
                return Ok(Deletion::AlreadyGone);
            }
            Err(problem) => {
                let unknown = problem.is_unknown_instance();
                let mut error = self.refused(ACTION, problem);
                if unknown {
                    error.kind = CloudErrorKind::Transient;
                    let said = "it was made a moment ago and the service may not know it yet";
                    error.message = format!("{}; {said}", error.message);
                }
                return Err(error);
            }
        };
        self.memory.forget(id);
        let mut changes = answer.terminating_instances.unwrap_or_default().into_iter();
        let change = changes.find(|change| change.instance_id.as_deref() == Some(id.as_str()));
        let before = change.and_then(|change| change.previous_state?.name);
        Ok(match before {
            Some(InstanceStateName::Terminated) => Deletion::AlreadyGone,
            Some(_) | None => Deletion::Accepted,
        })
    }
}

impl Ec2 {
    /// The user_data of an instance, unless the service does not tell it.
    pub(super) async fn told_user_data(
        &self,
        id: &CloudId,
    ) -> Result<Option<Secret<Vec<u8>>>, CloudError> {
        let request = self.client.describe_instance_attribute();
        let request = request
            .instance_id(id.as_str())
            .attribute(InstanceAttributeName::UserData);
        let answer = match request.send().await.map_err(Problem::from) {
            Ok(answer) => answer,
            Err(problem) => {
                let refused = matches!(problem, Problem::Refused(_));
                let error = self.refused("DescribeInstanceAttribute", problem);
                let is_silence = refused
                    && matches!(
                        error.kind,
                        CloudErrorKind::Rejected | CloudErrorKind::Auth | CloudErrorKind::NotFound
                    );
                if !is_silence {
                    return Err(error);
                }
                debug!("{error}");
                return Ok(None);
            }
        };
        let encoded = answer.user_data.and_then(|told| told.value);
        let raw = encoded.and_then(|text| STANDARD.decode(text.trim()).ok());
        Ok(raw.map(Secret::new))
    }
}

fn the_instance(instances: Vec<Instance>) -> Option<CloudId> {
    let mut ids = instances.into_iter().map(|instance| instance.instance_id);
    let only = ids.next()?.filter(|id| is_identifier(id))?;
    ids.next().is_none().then(|| CloudId::new(only))
}

fn spot() -> InstanceMarketOptionsRequest {
    let once = SpotMarketOptions::builder().spot_instance_type(SpotInstanceType::OneTime);
    InstanceMarketOptionsRequest::builder()
        .market_type(MarketType::Spot)
        .spot_options(once.build())
        .build()
}

fn encode_user_data(wanted: &CreateRequest) -> Result<String, CloudError> {
    let raw = wanted.user_data.reveal();
    if raw.len() > MAX_USER_DATA {
        return Err(CloudError::new(
            CloudErrorKind::Rejected,
            format!("create {}", wanted.name),
            format!(
                "user_data has {} bytes, and EC2 takes {MAX_USER_DATA}",
                raw.len()
            ),
        ));
    }
    Ok(STANDARD.encode(raw))
}
