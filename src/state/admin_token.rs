//! What whoever asks the admin endpoint from another host has to show: one secret text in a file
//! that only its owner, and a group that an admin gives it to, may read.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{IoContext, StateError, Store, disk, read_small};
use crate::model::{TokenHash, WriteToken};

/// The shortest text that is taken for a secret.
const LEAST: usize = 32;
/// Permission bits of those who are neither the owner nor of the group.
const OTHERS: u32 = 0o007;

/// The token that is asked for. Only its hash is kept in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminToken {
    /// What a text is compared with.
    pub hash: TokenHash,
    /// Whether it was made just now.
    pub is_new: bool,
}

impl Store {
    /// The token that is on disk. When there is none, or one that is no secret (short, or readable
    /// by everybody), `fresh` takes its place.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or cannot be written.
    pub fn admin_token(&self, fresh: &WriteToken) -> Result<AdminToken, StateError> {
        let layout = &self.layout;
        let path = layout.admin_token();
        if let Some(text) = read_small(layout.disk(), &path)? {
            let mode = fs::metadata(&path).context("look at", &path)?.permissions();
            let text = text.trim();
            let is_text = text.len() >= LEAST && text.bytes().all(|byte| byte.is_ascii_graphic());
            if is_text && mode.mode() & OTHERS == 0 {
                return Ok(AdminToken {
                    hash: TokenHash::of(text),
                    is_new: false,
                });
            }
        }
        let text = format!("{}\n", fresh.text().reveal());
        layout
            .disk()
            .write(&layout.tmp(), &path, text.as_bytes(), disk::PRIVATE)
            .context("write", &path)?;
        Ok(AdminToken {
            hash: fresh.hash(),
            is_new: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Secret;

    #[test]
    fn one_that_is_a_secret_stays_and_another_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = store.layout().admin_token();
        let fresh = |byte| WriteToken::new(&Secret::new([byte; 32]));
        let first = store.admin_token(&fresh(1)).unwrap();
        assert!(first.is_new && first.hash.matches(fresh(1).text().reveal()));
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        let second = store.admin_token(&fresh(2)).unwrap();
        assert_eq!((&second.hash, second.is_new), (&first.hash, false));
        // One that an admin has written, for a group.
        let own = "0123456789abcdef0123456789abcdef";
        let disk = store.layout().disk();
        let tmp = store.layout().tmp();
        disk.write(&tmp, &path, own.as_bytes(), 0o640).unwrap();
        assert!(store.admin_token(&fresh(3)).unwrap().hash.matches(own));
        for (text, mode) in [(own, 0o644), ("short", 0o600), ("", 0o600)] {
            disk.write(&tmp, &path, text.as_bytes(), mode).unwrap();
            assert!(store.admin_token(&fresh(4)).unwrap().is_new, "{text}");
        }
        assert!(!store.admin_token(&fresh(5)).unwrap().is_new);
    }
}
