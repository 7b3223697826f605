//! Names that Kubernetes takes: small letters, digits and dashes, not too many. Pure.

/// What a Job may have, so that its pods' names still fit.
const LONGEST: usize = 52;

/// What a claim may have (RFC 1123, subdomains), with room for what is put behind it.
const LONGEST_CLAIM: usize = 240;

/// `text` as the name of a Job: what does not fit in one is a dash.
pub(super) fn name(text: &str) -> String {
    cut(text, LONGEST)
}

/// The same for a claim. Cut as short as a Job's, the disks of a VM with a long name would be one.
pub(super) fn claim(text: &str) -> String {
    cut(text, LONGEST_CLAIM)
}

fn cut(text: &str, longest: usize) -> String {
    let fit = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() => c,
        _ => '-',
    };
    let all: String = text.chars().map(fit).collect();
    let cut: String = all.trim_matches('-').chars().take(longest).collect();
    match cut.trim_end_matches('-') {
        "" => "vm".to_owned(),
        cut => cut.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn a_name_is_one_that_kubernetes_takes() {
        assert_eq!(name("Web_01.example"), "web-01-example");
        assert_eq!(name("vc.example.com:443"), "vc-example-com-443");
        assert_eq!(name("_-_"), "vm");
        assert_eq!(name(&format!("{}-x", "a".repeat(51))), "a".repeat(51));
    }
}
