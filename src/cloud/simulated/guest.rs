//! What VMs do over the network: read their machine features, write their job outputs. One HTTP
//! client serves all VMs of a space, but each request makes a connection of its own, as the curl
//! in a real VM does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openssl::pkey::PKey;
use openssl::x509::X509;
use reqwest::{Client, Identity};
use tokio::sync::Semaphore;

use crate::cloud::http::ca;
use crate::cloud::http::text::causes;
use crate::cloud::{CloudError, CloudErrorKind};
use crate::model::Timestamp;

/// Requests of all VMs of a space at once: handshakes are work for the daemon that serves them.
const AT_ONCE: usize = 16;
/// The whole of one request, in real time.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest features file that a VM reads.
const MAX_BYTES: usize = 4096;

/// The network side of all VMs of a space.
#[derive(Debug)]
pub(super) struct Guest {
    client: Client,
    at_once: Semaphore,
    failed: AtomicU64,
}

/// Where a VM reads and writes, from its metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Urls {
    shutdowntime: Option<String>,
    joboutputs: Option<String>,
}

impl Urls {
    /// The URLs that vcycled gives its servers; a server of somebody else may have none.
    pub(super) fn from_metadata(metadata: &BTreeMap<String, String>) -> Self {
        let machinefeatures = metadata.get("machinefeatures");
        Self {
            shutdowntime: machinefeatures.map(|url| format!("{url}/shutdowntime")),
            joboutputs: metadata.get("joboutputs").cloned(),
        }
    }
}

impl Guest {
    /// A client that trusts the certificates in `ca_path` and shows the one in `cert`, a PEM file
    /// with the certificate, its key and its chain.
    pub(super) fn new(cert: Option<&Path>, ca_path: &Path) -> Result<Self, CloudError> {
        let mut builder = Client::builder()
            .no_proxy()
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(0)
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_merge(ca::load(ca_path));
        if let Some(cert) = cert {
            builder = builder.identity(identity(cert)?);
        }
        let client = builder.build().map_err(|error| {
            CloudError::new(
                CloudErrorKind::Rejected,
                "prepare the network of the simulated VMs",
                causes(&error),
            )
        })?;
        Ok(Self {
            client,
            at_once: Semaphore::new(AT_ONCE),
            failed: AtomicU64::new(0),
        })
    }

    /// `$MACHINEFEATURES/shutdowntime`, when it can be had.
    pub(super) async fn shutdowntime(&self, urls: &Urls) -> Option<Timestamp> {
        let url = urls.shutdowntime.as_deref()?;
        let read = async {
            let mut response = self.client.get(url).send().await?.error_for_status()?;
            let mut text = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                text.extend_from_slice(&chunk);
                if text.len() > MAX_BYTES {
                    break;
                }
            }
            Ok(text)
        };
        let text = self.count("GET", url, read).await?;
        String::from_utf8(text).ok()?.parse().ok()
    }

    /// Writes a file to `$JOBOUTPUTS`; false when that did not work. Without a place to write to
    /// there is nothing to do.
    pub(super) async fn put(&self, urls: &Urls, file: &str, text: &'static str) -> bool {
        let Some(joboutputs) = &urls.joboutputs else {
            return true;
        };
        let url = format!("{joboutputs}/{file}");
        let write = async {
            let sent = self.client.put(&url).body(text).send().await?;
            sent.error_for_status().map(drop)
        };
        self.count("PUT", &url, write).await.is_some()
    }

    /// Waits for a turn, makes the request, and counts it when it fails: the first failure of all
    /// is a warning, since it often is the configuration that is wrong.
    async fn count<T>(
        &self,
        method: &str,
        url: &str,
        request: impl Future<Output = Result<T, reqwest::Error>>,
    ) -> Option<T> {
        let Ok(_turn) = self.at_once.acquire().await else {
            return None;
        };
        match request.await {
            Ok(answer) => Some(answer),
            Err(error) => {
                let error = causes(&error.without_url());
                let failed = self.failed.fetch_add(1, Ordering::Relaxed) + 1;
                if failed == 1 {
                    tracing::warn!(
                        "a simulated VM: {method} {url}: {error}; it goes on without; further \
                         failures are only counted, at debug level"
                    );
                } else {
                    tracing::debug!(failed, "a simulated VM: {method} {url}: {error}");
                }
                None
            }
        }
    }
}

fn identity(cert: &Path) -> Result<Identity, CloudError> {
    let wrong = |why: String| {
        let operation = format!("read simulated_cert {}", cert.display());
        CloudError::new(CloudErrorKind::Rejected, operation, why)
    };
    let pem = std::fs::read(cert).map_err(|error| wrong(error.to_string()))?;
    let chain = X509::stack_from_pem(&pem).map_err(|error| wrong(error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    let mut certificates = Vec::new();
    for certificate in &chain {
        let pem = certificate.to_pem();
        certificates.extend(pem.map_err(|error| wrong(error.to_string()))?);
    }
    let key = PKey::private_key_from_pem(&pem).and_then(|key| key.private_key_to_pem_pkcs8());
    let key = key.map_err(|error| wrong(format!("no usable private key in it: {error}")))?;
    Identity::from_pkcs8_pem(&certificates, &key).map_err(|error| wrong(error.to_string()))
}
