//! The shape of the source tree, checked: which module may use which, how long a file may be, that
//! every file says what it is for, and where `unsafe` may live.
//!
//! Each rule is a pure function from text to complaints, and is itself tested on bad text below.
//! A rule that is wrong is changed here, with its reason, not worked around.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test crate")]

use std::fs;
use std::path::{Path, PathBuf};

/// The vocabulary that everything above it may speak.
const WORDS: &[&str] = &[
    "address",
    "authority",
    "buffer",
    "digest",
    "endpoint",
    "error",
    "extent",
    "secret",
    "sys",
    "tls",
];

/// Which modules a module may use, besides itself and [`WORDS`]; those list all that they may.
/// Data flows down the table, and an arrow points down only: a row names rows below it.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "demo",
            "kubernetes",
            "importer",
            "migrate",
            "job",
            "report",
            "changes",
            "vsphere",
            "plan",
            "pipeline",
            "journal",
            "source",
            "format",
            "target",
            "nbd",
            "http",
        ],
    ),
    (
        "demo",
        &[
            "job", "report", "changes", "journal", "source", "target", "nbd",
        ],
    ),
    ("kubernetes", &["migrate"]),
    (
        "importer",
        &[
            "migrate", "job", "report", "changes", "vsphere", "pipeline", "source", "format",
            "target", "http",
        ],
    ),
    (
        "migrate",
        &[
            "job", "report", "changes", "pipeline", "journal", "vsphere", "source", "target",
            "http",
        ],
    ),
    (
        "job",
        &[
            "report", "changes", "plan", "pipeline", "journal", "source", "format", "target", "nbd",
        ],
    ),
    // Not `nbd`: what fails and lies does so behind the traits, whatever the protocol.
    (
        "testkit",
        &[
            "changes", "plan", "pipeline", "journal", "source", "format", "target",
        ],
    ),
    ("report", &["plan", "pipeline"]),
    ("changes", &["vsphere", "source", "nbd", "http"]),
    ("pipeline", &["plan", "journal", "source", "target"]),
    ("journal", &["plan"]),
    ("plan", &[]),
    ("vsphere", &["http"]),
    ("source", &["format", "nbd", "http"]),
    ("target", &["format", "nbd"]),
    ("format", &[]),
    ("nbd", &[]),
    ("http", &[]),
    // The vocabulary, among itself.
    ("address", &["error"]),
    ("authority", &[]),
    ("sys", &["buffer", "extent", "error"]),
    ("digest", &["extent", "error"]),
    ("buffer", &["error"]),
    ("endpoint", &["extent", "error"]),
    ("secret", &["error"]),
    ("tls", &["error"]),
    ("extent", &["error"]),
    ("error", &[]),
];

/// Lines of a file outside its tests.
const LONGEST_FILE: usize = 500;

/// The rooms where `unsafe` may live.
const UNSAFE_ROOMS: &[&str] = &["sys", "buffer"];

/// Names that say nothing of what a module is for.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "helper", "helpers", "common", "misc", "tools",
];

/// Where some developer's machine keeps things. In pieces, so that this file passes its own rule.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
];

// --- reading Rust, as far as the rules need it ------------------------------------------------

/// `text` with comments, string and character literals blanked; offsets and lines stay.
fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skip = literal_length(rest, out.chars().next_back());
        let taken = if skip == 0 { first.len_utf8() } else { skip };
        let (token, after) = rest.split_at(taken);
        if skip == 0 {
            out.push(first);
        } else {
            out.extend(token.chars().map(|c| if c == '\n' { c } else { ' ' }));
        }
        rest = after;
    }
    out
}

/// Length of the comment or literal that `text` begins with; 0 if it begins with code.
fn literal_length(text: &str, before: Option<char>) -> usize {
    let word_before = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return text.find("*/").map_or(text.len(), |end| end + 2);
    }
    if text.starts_with('r') && !word_before {
        let hashes = text[1..].chars().take_while(|&c| c == '#').count();
        if text[1 + hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = 2 + hashes;
            return text[body..]
                .find(&close)
                .map_or(text.len(), |end| body + end + close.len());
        }
    }
    if text.starts_with('"') {
        return quoted_length(text, '"');
    }
    // A lifetime has no closing quote; a character has one after one character or an escape.
    let mut chars = text.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('\''), Some('\\'), _) => quoted_length(text, '\''),
        (Some('\''), Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

/// Length of a literal between `quote`s, escapes honoured.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `code` without its `#[cfg(test)]` items.
fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..start]);
        let item = &rest[start..];
        let end = match (item.find('{'), item.find(';')) {
            (Some(open), semicolon) if semicolon.is_none_or(|s| open < s) => {
                open + closing_brace(&item[open..])
            }
            (_, Some(semicolon)) => semicolon + 1,
            _ => item.len(),
        };
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}

/// Offset just past the brace that closes the one at the start of `code`.
fn closing_brace(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// The modules of the crate that `code` names: `crate::X`, `diskferry::X`, `crate::{X, Y}`.
fn modules_used(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["crate::", "diskferry::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let path = &code[at + root.len()..];
            if path.starts_with('{') {
                found.extend(group_heads(&path[1..closing_brace(path) - 1]));
            } else {
                found.extend(first_word(path));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The first word of each member of a `use` group.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0_usize;
    let mut start = 0;
    for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.extend(first_word(group[start..at].trim_start()));
                start = at + 1;
            }
            _ => {}
        }
    }
    heads
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!word.is_empty()).then_some(word)
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|w| w == word)
}

// --- the rules --------------------------------------------------------------------------------

/// The top module that a path below `src/` belongs to.
fn module_of(path: &str) -> &str {
    let head = path.split('/').next().unwrap_or(path);
    head.strip_suffix(".rs").unwrap_or(head)
}

/// A file that holds nothing but tests of the file beside it.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

fn wrong_arrows(path: &str, text: &str) -> Vec<String> {
    let module = module_of(path);
    if module == "lib" {
        return Vec::new(); // The list of modules.
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else {
        return vec![format!(
            "src/{path}: module `{module}` is not in the table ARROWS of tests/tidy.rs"
        )];
    };
    let word = WORDS.contains(&module);
    modules_used(&without_tests(&code_only(text)))
        .into_iter()
        .filter(|used| used != module && used.chars().all(|c| !c.is_uppercase()))
        .filter(|used| {
            !(allowed.contains(&used.as_str()) || (!word && WORDS.contains(&used.as_str())))
        })
        .map(|used| {
            format!(
                "src/{path}: `{module}` must not use `{used}`; it may use {allowed:?}{} \
                 (arrows point down only, docs/architecture.md)",
                if word { "" } else { " and the vocabulary" }
            )
        })
        .collect()
}

fn too_long(path: &str, text: &str) -> Option<String> {
    let lines = without_tests(&code_only(text)).lines().count();
    (lines > LONGEST_FILE)
        .then(|| format!("{path}: {lines} lines without tests; {LONGEST_FILE} is the limit"))
}

fn no_header(path: &str, text: &str) -> Option<String> {
    (!text.starts_with("//! "))
        .then(|| format!("{path}: does not begin with `//! ` and its purpose"))
}

fn misplaced_unsafe(path: &str, text: &str) -> Option<String> {
    let code = code_only(text);
    (!UNSAFE_ROOMS.contains(&module_of(path)) && has_word(&code, "unsafe"))
        .then(|| format!("src/{path}: `unsafe` lives in {UNSAFE_ROOMS:?} only"))
}

fn empty_name(path: &str) -> Option<String> {
    path.split('/')
        .map(|part| part.strip_suffix(".rs").unwrap_or(part))
        .find(|part| EMPTY_NAMES.contains(part))
        .map(|part| format!("{path}: the name `{part}` says nothing"))
}

fn machine_path(path: &str, text: &str) -> Option<String> {
    MACHINE_PATHS
        .iter()
        .find(|found| text.contains(**found))
        .map(|found| format!("{path}: names `{found}`, a path of some machine"))
}

/// What tries the contract of a trait.
type Checks = (&'static str, &'static [&'static str]);
const SOURCE: Checks = ("Source", &["check_source"]);
const TARGET: Checks = ("Target", &["check_target", "check_forward"]);
/// It makes a `Target` of whatever implements it.
const DRAFTED: Checks = ("Drafted", &["check_target"]);

/// The implementations of a trait in `code` that no test has next to one of the trait's checks.
/// That the check is of them is left to whoever reads that test.
fn untried((name, checks): Checks, code: &str, tests: &[String]) -> Vec<String> {
    let tries = |test: &String| checks.iter().any(|check| has_word(test, check));
    let head = format!("impl {name} for ");
    let found = code.split(&head).skip(1).filter_map(first_word);
    found
        .filter(|found| {
            !tests
                .iter()
                .any(|test| has_word(test, found) && tries(test))
        })
        .map(|found| format!("no test calls {checks:?} for {found}"))
        .collect()
}

// --- the tree ---------------------------------------------------------------------------------

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file below `dir` that is part of the project: its path from the root, its text.
fn files_below(dir: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut todo = vec![root().join(dir)];
    while let Some(path) = todo.pop() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The build's, and not the module of that name.
        let built = name == "target" && !path.starts_with(root().join("src"));
        if built || ["corpus", "artifacts", ".git", "seeds"].contains(&&*name) {
            continue;
        }
        if path.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path: &Path = path.strip_prefix(root()).unwrap();
            found.push((path.to_string_lossy().into_owned(), text));
        }
    }
    found.sort();
    found
}

fn rust_below(dir: &str) -> Vec<(String, String)> {
    let mut files = files_below(dir);
    files.retain(|(path, _)| path.ends_with(".rs"));
    files
}

/// The files of `src/`, named from there.
fn sources() -> Vec<(String, String)> {
    let files: Vec<_> = rust_below("src")
        .into_iter()
        .map(|(path, text)| (path.strip_prefix("src/").unwrap().to_owned(), text))
        .collect();
    let found = files.iter().any(|(path, _)| path == "target/mod.rs");
    assert!(found, "not all of src/ was found");
    files
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn arrows_point_down_only() {
    let sources = sources();
    let production = sources.iter().filter(|(path, _)| !is_test_file(path));
    let complaints = production.flat_map(|(path, text)| wrong_arrows(path, text));
    assert_none(&complaints.collect::<Vec<_>>());
}

#[test]
fn the_table_of_arrows_has_no_cycle() {
    for (row, (module, allowed)) in ARROWS.iter().enumerate() {
        for used in *allowed {
            let below = ARROWS.iter().skip(row + 1).any(|(name, _)| name == used);
            assert!(below, "`{module}` may use `{used}`, which is not below it");
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut complaints = Vec::new();
    for dir in ["src", "tests", "benches", "fuzz"] {
        for (path, text) in rust_below(dir) {
            complaints.extend(no_header(&path, &text));
            complaints.extend(empty_name(&path));
            if !is_test_file(&path) {
                complaints.extend(too_long(&path, &text));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn unsafe_lives_in_two_rooms() {
    let complaints = sources()
        .iter()
        .filter_map(|(path, text)| misplaced_unsafe(path, text))
        .collect::<Vec<_>>();
    assert_none(&complaints);
}

#[test]
fn every_endpoint_is_tried_against_its_contract() {
    let mut all = [rust_below("src"), rust_below("tests/it")].concat();
    all.retain(|(path, _)| !path.starts_with("src/testkit/"));
    let tests: Vec<_> = all.iter().map(|(_, text)| code_only(text)).collect();
    let mut complaints = Vec::new();
    for ((path, _), code) in all.iter().zip(&tests) {
        for what in [SOURCE, TARGET, DRAFTED] {
            if path.starts_with("src/") && !is_test_file(path) {
                complaints.extend(untried(what, &without_tests(code), &tests));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn no_file_names_a_machine() {
    let complaints = files_below("")
        .iter()
        .filter_map(|(path, text)| machine_path(path, text))
        .collect::<Vec<_>>();
    assert_none(&complaints);
}

#[cfg(test)]
mod the_rules_themselves {
    use super::{
        SOURCE, TARGET, code_only, empty_name, machine_path, misplaced_unsafe, modules_used,
        no_header, too_long, untried, without_tests, wrong_arrows,
    };

    #[test]
    fn an_arrow_that_points_up_is_named() {
        let complaints = wrong_arrows("plan/mod.rs", "//! x\nuse crate::target::Target;\n");
        assert_eq!(complaints.len(), 1);
        assert!(
            complaints[0].contains("`plan` must not use `target`"),
            "{complaints:?}"
        );
        assert_eq!(
            wrong_arrows("extent/set.rs", "use crate::digest::Digest;").len(),
            1
        );
        assert_eq!(wrong_arrows("stray.rs", "").len(), 1, "not in the table");
    }

    #[test]
    fn an_arrow_that_points_down_passes() {
        assert!(
            wrong_arrows(
                "job/mod.rs",
                "use crate::plan::Plan; use crate::error::Error;"
            )
            .is_empty()
        );
        assert!(
            wrong_arrows("plan/x.rs", "use crate::plan::Step; pub(crate) fn f() {}").is_empty()
        );
        assert!(wrong_arrows("main.rs", "diskferry::cli::main()").is_empty());
    }

    #[test]
    fn tests_comments_and_strings_draw_no_arrows() {
        let text = r##"
            /// See [`crate::job`]. /* crate::job */
            const A: &str = "crate::job \" crate::job";
            const B: &str = r#"crate::job"#;
            fn f<'a>(_: &'a str) -> char { '"' }
            #[cfg(test)]
            mod tests { use crate::job::Job; fn g() { if true {} } }
            use crate::error::Error;
        "##;
        assert_eq!(modules_used(&without_tests(&code_only(text))), ["error"]);
    }

    #[test]
    fn every_way_to_name_a_module_is_seen() {
        let text = "use crate::{a::{B, C}, d}; fn f() { crate::e::g(); my_crate::h(); }";
        assert_eq!(modules_used(text), ["a", "d", "e"]);
    }

    #[test]
    fn a_long_file_is_named_and_its_tests_do_not_count() {
        let line = "const X: u8 = 1;\n";
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", line.repeat(600));
        assert!(too_long("a.rs", &line.repeat(501)).is_some());
        assert!(too_long("a.rs", &format!("{}{tests}", line.repeat(499))).is_none());
    }

    #[test]
    fn an_endpoint_that_no_test_tries_is_named() {
        let code = "impl Target for Tape {} impl Source for Tape {}";
        let tests = ["check_source(&Tape::new());", "check_target(&Disk::new());"];
        let tests = tests.map(str::to_owned);
        assert!(untried(SOURCE, code, &tests).is_empty());
        let complaints = untried(TARGET, code, &tests);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].contains("for Tape"), "{complaints:?}");
        let forward = ["check_forward(&Tape::new());".to_owned()];
        assert!(untried(TARGET, code, &forward).is_empty());
    }

    #[test]
    fn the_small_rules_can_fail() {
        assert!(no_header("a.rs", "use std::fs;").is_some());
        assert!(no_header("a.rs", "//! What for.").is_none());
        assert!(misplaced_unsafe("nbd/x.rs", "fn f() { unsafe { g() } }").is_some());
        assert!(misplaced_unsafe("nbd/x.rs", "// unsafe\n#![deny(unsafe_code)]").is_none());
        assert!(misplaced_unsafe("sys/x.rs", "unsafe {}").is_none());
        assert!(empty_name("src/nbd/utils.rs").is_some());
        assert!(machine_path("a", concat!("cd /ro", "ot/x")).is_some());
    }
}
