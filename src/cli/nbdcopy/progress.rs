//! nbdcopy's progress: a bar on standard error, or `N/100` on a file descriptor.

use super::options::Progress;
use crate::sys::inherited::inherited;
use std::fs::File;
use std::io::{self, Write};

/// Characters of the bar.
const WIDTH: u64 = 40;

/// Shows how far a copy is. Says 0 first and 100 last, and nothing twice.
pub(super) struct Shown {
    out: Box<dyn Write + Send>,
    style: Style,
    last: Option<u64>,
    turns: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Style {
    Bar,
    Lines,
}

impl Shown {
    /// Shows 0 %. `None` if nobody wants to see it, or nobody can: the file descriptor is not open.
    pub(super) fn start(progress: Option<Progress>) -> Option<Self> {
        let (out, style): (Box<dyn Write + Send>, _) = match progress? {
            Progress::Bar => (Box::new(io::stderr()), Style::Bar),
            Progress::Fd(number) => {
                let fd = inherited(number).ok()?;
                (Box::new(File::from(fd)), Style::Lines)
            }
        };
        let mut shown = Self::new(out, style);
        shown.show(0, 1);
        Some(shown)
    }

    fn new(out: Box<dyn Write + Send>, style: Style) -> Self {
        Self {
            out,
            style,
            last: None,
            turns: 0,
        }
    }

    /// Shows that `done` of `of` is done; nothing of nothing is not shown.
    pub(super) fn show(&mut self, done: u64, of: u64) {
        let share = u128::from(done.min(of)).saturating_mul(100);
        let Some(percent) = share.checked_div(u128::from(of)) else {
            return;
        };
        let percent = u64::try_from(percent).unwrap_or(100);
        if self.last.is_some_and(|last| percent <= last) {
            return;
        }
        self.last = Some(percent);
        let text = match self.style {
            Style::Lines => format!("{percent}/100\n"),
            Style::Bar => self.bar(percent),
        };
        // A copy does not fail because nobody looks at it.
        let _ = self
            .out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush());
    }

    /// Shows 100 %.
    pub(super) fn finish(&mut self) {
        self.show(1, 1);
    }

    fn bar(&mut self, percent: u64) -> String {
        // As the original, also where the locale has no such characters.
        const SPINNER: [char; 8] = ['▝', '▐', '▗', '▃', '▖', '▍', '▘', '▀'];
        let spinner = SPINNER.iter().cycle().nth(self.turns % SPINNER.len());
        self.turns = self.turns.wrapping_add(1);
        let (spinner, end) = match percent {
            100 => ('█', '\n'),
            _ => (spinner.copied().unwrap_or(' '), '\r'),
        };
        let full = percent.saturating_mul(WIDTH).div_ceil(100).min(WIDTH);
        let full = usize::try_from(full).unwrap_or(0);
        let width = usize::try_from(WIDTH).unwrap_or(0);
        format!(
            "{spinner} {percent:>3}% [{:-<width$}]{end}",
            "*".repeat(full)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Shown, Style};
    use std::io::{Result, Write};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    fn shown(style: Style, parts: &[(u64, u64)]) -> String {
        let paper = Paper::default();
        let mut shown = Shown::new(Box::new(paper.clone()), style);
        shown.show(0, 1);
        parts.iter().for_each(|(done, of)| shown.show(*done, *of));
        shown.finish();
        String::from_utf8(paper.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn lines_go_from_0_to_100_and_never_back() {
        let parts = [(1, 200), (50, 200), (40, 200), (51, 200), (200, 200)];
        assert_eq!(shown(Style::Lines, &parts), "0/100\n25/100\n100/100\n");
        assert_eq!(shown(Style::Lines, &[(0, 0)]), "0/100\n100/100\n");
        assert_eq!(
            shown(Style::Lines, &[(u64::MAX - 1, u64::MAX)]),
            "0/100\n99/100\n100/100\n"
        );
    }

    #[test]
    fn the_bar_is_forty_wide_and_ends_its_line_when_full() {
        let text = shown(Style::Bar, &[(1, 2)]);
        let bars: Vec<&str> = text.split(['\r', '\n']).collect();
        assert!(
            bars[0].ends_with(&format!("  0% [{}]", "-".repeat(40))),
            "{text}"
        );
        assert!(bars[1].ends_with(&format!(" 50% [{}{}]", "*".repeat(20), "-".repeat(20))));
        assert!(bars[2].ends_with(&format!("100% [{}]", "*".repeat(40))));
        assert!(text.ends_with('\n'));
        let spinner: Vec<_> = bars.iter().filter_map(|bar| bar.chars().next()).collect();
        assert_eq!(spinner, ['▝', '▐', '█']);
    }
}
