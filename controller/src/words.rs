//! What an API server says of what it refuses, in its own words: kube's error tells its fields as well, for programmers.

/// What is to be said of an error.
pub(crate) fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_status_is_its_message() {
        let refused = Status::failure("pods \"a\" is forbidden", "Forbidden").with_code(403);
        assert_eq!(words(&kube::Error::Api(refused.boxed())), "pods \"a\" is forbidden");
        let other = kube::Error::LinesCodecMaxLineLengthExceeded;
        assert_eq!(words(&other), other.to_string());
    }
}
