//! What an endpoint that speaks a certain version of the API knows of it.
//!
//! An endpoint refuses parameters that are newer than its version, so that they are only sent to
//! one that knows them. Versions are dates, which are ordered as texts are; a word such as
//! `latest` comes after them all.

/// The version of the API, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version(String);

/// Tags, filters, imported key pairs and client tokens came with one version.
const WITH_TOKENS: &str = "2010-08-31";
/// Listings by pages of our size.
const WITH_PAGES: &str = "2014-02-01";
/// The last dated version; Amazon has added to it since: tags in the request that makes something
/// (2017) and the description of instance types (2019).
const CURRENT: &str = "2016-11-15";

impl Version {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    fn is_at_least(&self, version: &str) -> bool {
        self.0.as_str() >= version
    }

    /// Whether RunInstances takes a client token, and CreateTags and filters exist.
    pub(super) fn has_tokens(&self) -> bool {
        self.is_at_least(WITH_TOKENS)
    }

    /// Whether listings take the size of a page.
    pub(super) fn has_pages(&self) -> bool {
        self.is_at_least(WITH_PAGES)
    }

    /// Whether RunInstances takes tags.
    pub(super) fn has_tag_specifications(&self) -> bool {
        self.is_at_least(CURRENT)
    }

    /// Whether DescribeInstanceTypes exists.
    pub(super) fn has_instance_types(&self) -> bool {
        self.is_at_least(CURRENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_know_what_had_come_by_then() {
        let knows = |version: &str| {
            let version = Version::new(version);
            (
                version.has_tokens(),
                version.has_pages(),
                version.has_tag_specifications() && version.has_instance_types(),
            )
        };
        assert_eq!(knows("2009-11-30"), (false, false, false));
        assert_eq!(knows("2010-08-31"), (true, false, false));
        assert_eq!(knows("2014-06-15"), (true, true, false));
        assert_eq!(knows("2016-11-15"), (true, true, true));
        assert_eq!(knows("latest"), (true, true, true));
    }
}
