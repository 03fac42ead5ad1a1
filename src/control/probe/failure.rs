//! Why a database was not heard, in a word and in its own words.

use crate::cluster::Cause;

/// More than anybody reads in a log line.
const MAX_COMPLAINT_CHARS: usize = 300;

/// Why there is no evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub cause: Cause,
    /// What a person has to put right: printable and short. `None`: nothing, it may pass by itself.
    pub complaint: Option<String>,
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Self {
            cause,
            complaint: None,
        }
    }
}

impl Failure {
    /// What a person has to put right, in words that may be the server's.
    pub fn complaining(cause: Cause, words: &str) -> Self {
        let printable = |it: char| if it.is_control() { ' ' } else { it };
        let complaint = words.chars().take(MAX_COMPLAINT_CHARS).map(printable);
        Self {
            cause,
            complaint: Some(complaint.collect()),
        }
    }

    /// Something is wrong with the health check's user, password or privileges.
    pub fn login(words: &str) -> Self {
        Self::complaining(Cause::LoginFailed, words)
    }

    /// As the server says; its words matter only if it refuses us.
    pub fn refused(cause: Cause, words: &str) -> Self {
        match cause {
            Cause::LoginFailed => Self::login(words),
            cause => cause.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_cannot_forge_a_line_of_the_log() {
        let words = format!("denied\nERROR {}", "x".repeat(1000));
        let complaint = Failure::login(&words).complaint.unwrap();
        assert!(complaint.starts_with("denied ERROR xxx"));
        assert_eq!(complaint.len(), MAX_COMPLAINT_CHARS);
    }

    #[test]
    fn what_may_pass_by_itself_is_no_complaint() {
        let passes = Failure::refused(Cause::StartingUp, "starting");
        assert_eq!(passes.complaint, None);
        assert!(
            Failure::refused(Cause::LoginFailed, "no")
                .complaint
                .is_some()
        );
    }
}
