//! CernVM images as they are signed, and every way in which the signature can be wrong.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::sign::Signer;
use tempfile::TempDir;
use vcycle::images::signature::{Rule, SignatureError, verify};
use vcycle::model::Timestamp;

use crate::pki::{self, EXPIRED, For, Party, VALID};

const BLOCK: usize = 32 * 1024;
/// The pattern of the manual page.
pub const PATTERN: &str = r"/CN=cvm-sign01\.cern\.ch$";
const DN: &str = "/DC=ch/DC=cern/OU=computers/CN=cvm-sign01.cern.ch";

fn signer_name() -> openssl::x509::X509Name {
    pki::name(&[
        ("DC", "ch"),
        ("DC", "cern"),
        ("OU", "computers"),
        ("CN", "cvm-sign01.cern.ch"),
    ])
}

/// Those who sign, made once.
pub struct Signers {
    pub ca: Party,
    pub good: Party,
    expired: Party,
    other: Party,
    elliptic: Party,
    stranger: Party,
}

pub static SIGNERS: LazyLock<Signers> = LazyLock::new(|| {
    let ca = pki::authority("Signing CA");
    let rsa = || PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let issue = |ca: &Party, key: PKey<Private>, name: &openssl::x509::X509Name, validity| {
        ca.issue_for(key, name, For::Servers, validity)
    };
    let name = signer_name();
    let other = pki::name(&[("DC", "ch"), ("CN", "cvm-sign01.cern.ch.example.org")]);
    Signers {
        good: issue(&ca, rsa(), &name, VALID),
        expired: issue(&ca, rsa(), &name, EXPIRED),
        other: issue(&ca, rsa(), &other, VALID),
        elliptic: ca.issue(&name, For::Servers, VALID),
        stranger: issue(&pki::authority("Another CA"), rsa(), &name, VALID),
        ca,
    }
});

fn padded(text: &str) -> Vec<u8> {
    let mut block = text.as_bytes().to_vec();
    block.resize(BLOCK, 0);
    block
}

/// Everything before the signature block: `content`, then metadata as CernVM has published it.
fn unsigned(content: &[u8]) -> Vec<u8> {
    let metadata = "{\"ucernvm-version\": \"2.7-7\",\n \"head\": \"HEAD\",\n}";
    let mut image = content.to_vec();
    image.extend(padded(metadata));
    image
}

fn encoded(signer: &Party, signed: &[u8]) -> (String, String) {
    let mut signing = Signer::new(MessageDigest::sha256(), &signer.key).unwrap();
    let signature = signing.sign_oneshot_to_vec(signed).unwrap();
    let certificate = signer.cert.to_pem().unwrap();
    (STANDARD.encode(certificate), STANDARD.encode(signature))
}

/// A CernVM image with this content. Its signature block lacks commas, as published ones have.
pub fn image(signer: &Party, content: &[u8]) -> Vec<u8> {
    let mut image = unsigned(content);
    let (certificate, signature) = encoded(signer, &image);
    image.extend(padded(&format!(
        "{{\n\"howto-verify\": \"openssl dgst <the base64 signature>\"\n\
         \"certificate\": \"{certificate}\",\n\"signature\": \"{signature}\"\n\
         \"signed-by\": \"cvm-sign01.cern.ch\",\n}}"
    )));
    image
}

/// A directory with the CA that may sign.
fn ca_path() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    SIGNERS.ca.install(directory.path());
    directory
}

async fn verify_bytes(image: &[u8], ca_path: &Path, pattern: &str) -> Result<String, String> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(image).unwrap();
    verify_file(file, ca_path, pattern)
        .await
        .map_err(|error| error.to_string())
}

async fn verify_file(file: File, ca_path: &Path, pattern: &str) -> Result<String, SignatureError> {
    let size = file.metadata().unwrap().len();
    let rule = Rule {
        pattern,
        ca_path,
        now: Timestamp::from_system_time(std::time::SystemTime::now()),
    };
    let dn = verify(&Arc::new(file), size, rule).await?;
    Ok(dn.to_string())
}

const CONTENT: &[u8] = &[7; 3 * 1024 * 1024 + 5];

#[tokio::test]
async fn a_signed_image_is_believed_whatever_its_commas() {
    let cas = ca_path();
    let good = &SIGNERS.good;
    let published = image(good, CONTENT);
    let outcome = verify_bytes(&published, cas.path(), PATTERN).await;
    assert_eq!(outcome.as_deref(), Ok(DN));

    let (certificate, signature) = encoded(good, &unsigned(b"small"));
    for block in [
        format!(r#"{{"certificate": "{certificate}", "signature": "{signature}"}}"#),
        format!("{{\"certificate\": \"{certificate}\"\n\"signature\": \"{signature}\"}}"),
        format!("{{\"signature\": \"{signature}\",,\n\"certificate\": \"{certificate}\",}}\n\n"),
    ] {
        let mut image = unsigned(b"small");
        image.extend(padded(&block));
        let outcome = verify_bytes(&image, cas.path(), PATTERN).await;
        assert_eq!(outcome.as_deref(), Ok(DN), "{block}");
    }
    // Matched anywhere, as long as the pattern says nothing else.
    for pattern in ["cern", "^/DC=ch/", DN] {
        let outcome = verify_bytes(&published, cas.path(), pattern).await;
        assert_eq!(outcome.as_deref(), Ok(DN), "{pattern}");
    }
}

#[tokio::test]
async fn each_step_that_fails_keeps_the_image_from_being_used() {
    let cas = ca_path();
    let signers = &*SIGNERS;
    let good = image(&signers.good, CONTENT);
    let with_block = |block: &str| {
        let mut image = unsigned(CONTENT);
        image.extend(padded(block));
        image
    };
    let (certificate, signature) = encoded(&signers.good, &unsigned(CONTENT));
    let changed = |at: usize| {
        let mut image = good.clone();
        image[at] ^= 1;
        image
    };
    let length = good.len();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no blocks at all", vec![1; 1000], "has only 1000 bytes"),
        (
            "only the blocks",
            vec![1; 2 * BLOCK],
            "has only 65536 bytes",
        ),
        (
            "no signature block",
            unsigned(CONTENT),
            "signature block: certificate or signature is missing",
        ),
        (
            "an empty block",
            with_block(""),
            "signature block: it is empty",
        ),
        (
            "not text",
            with_block("\u{1}\u{2}"),
            "signature block: it is not JSON",
        ),
        (
            "a raw disk",
            vec![0xff; length],
            "signature block: it is not text",
        ),
        (
            "garbage",
            with_block("{\"certificate\": \"QUJD\" : }"),
            "signature block: it is not JSON",
        ),
        (
            "another document",
            with_block("[1, 2]"),
            "signature block: certificate or signature is missing",
        ),
        (
            "no base64",
            with_block(r#"{"certificate": "%", "signature": ""}"#),
            "certificate is not base64",
        ),
        (
            "no certificate",
            with_block(r#"{"certificate": "QUJD", "signature": ""}"#),
            "it is not X.509",
        ),
        (
            "an empty signature",
            with_block(&format!(
                r#"{{"certificate": "{certificate}", "signature": ""}}"#
            )),
            "its signature is wrong",
        ),
        (
            "a signature that is none",
            with_block(&format!(
                r#"{{"certificate": "{certificate}", "signature": "QUJD"}}"#
            )),
            "its signature is wrong",
        ),
        ("first byte", changed(0), "its signature is wrong"),
        (
            "a byte of a later piece",
            changed(2 * 1024 * 1024),
            "its signature is wrong",
        ),
        (
            "a byte of the metadata",
            changed(CONTENT.len() + 3),
            "its signature is wrong",
        ),
        (
            "the last byte of the metadata's padding",
            changed(length - BLOCK - 1),
            "its signature is wrong",
        ),
        (
            "cut off at its beginning",
            good[1..].to_vec(),
            "its signature is wrong",
        ),
        (
            "cut off at its end",
            good[..length - 1].to_vec(),
            "signature block: it is not JSON",
        ),
        (
            "cut off in its last block",
            good[..length - BLOCK].to_vec(),
            "signature block",
        ),
        (
            "longer",
            [good.clone(), vec![0; BLOCK]].concat(),
            "signature block: it is empty",
        ),
        (
            "expired",
            image(&signers.expired, CONTENT),
            "certificate has expired",
        ),
        (
            "another's name",
            image(&signers.other, CONTENT),
            "was signed by /DC=ch/CN=cvm-sign01.cern.ch.example.org, which cernvm_signing_dn",
        ),
        (
            "another CA",
            image(&signers.stranger, CONTENT),
            "is not verified by",
        ),
        (
            "not RSA",
            with_block(&{
                let (certificate, _) = encoded(&signers.elliptic, b"");
                format!(r#"{{"certificate": "{certificate}", "signature": "{signature}"}}"#)
            }),
            "its key is not RSA",
        ),
        (
            "another's certificate",
            with_block(&{
                let fresh = signers.ca.issue_for(
                    PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
                    &signer_name(),
                    For::Servers,
                    VALID,
                );
                let (certificate, _) = encoded(&fresh, b"");
                format!(r#"{{"certificate": "{certificate}", "signature": "{signature}"}}"#)
            }),
            "its signature is wrong",
        ),
    ];
    assert!(verify_bytes(&good, cas.path(), PATTERN).await.is_ok());
    for (what, image, expected) in cases {
        let error = verify_bytes(&image, cas.path(), PATTERN)
            .await
            .expect_err(what);
        assert!(error.contains(expected), "{what}: {error}");
    }
    let nobody = tempfile::tempdir().unwrap();
    for ca_path in [nobody.path(), Path::new("/nonexistent")] {
        let error = verify_bytes(&good, ca_path, PATTERN).await.unwrap_err();
        assert!(
            error.contains("unable to get local issuer certificate"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_revoked_signer_is_refused_where_there_is_a_crl() {
    let cas = ca_path();
    let good = image(&SIGNERS.good, CONTENT);
    SIGNERS.ca.publish_crl(cas.path(), &[], 3600);
    assert!(verify_bytes(&good, cas.path(), PATTERN).await.is_ok());
    SIGNERS.ca.publish_crl(cas.path(), &[&SIGNERS.good], 3600);
    let error = verify_bytes(&good, cas.path(), PATTERN).await.unwrap_err();
    assert!(error.contains("certificate revoked"), "{error}");
}

#[tokio::test]
async fn a_name_with_a_nul_in_it_is_not_taken_for_what_is_before_it() {
    let cas = ca_path();
    let name = pki::name(&[("DC", "ch"), ("CN", "cvm-sign01.cern.ch\0.example.org")]);
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let signer = SIGNERS.ca.issue_for(key, &name, For::Servers, VALID);
    let image = image(&signer, CONTENT);
    let error = verify_bytes(&image, cas.path(), PATTERN).await.unwrap_err();
    assert!(error.contains("which cernvm_signing_dn"), "{error}");
}
