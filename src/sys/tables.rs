//! `/proc/self/mountinfo` and `/proc/swaps`: text to values. Opens nothing (proc(5)).

/// One mounted file system.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mount {
    /// Major and minor number of its device. Anonymous for btrfs and the like.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub point: String,
    /// What was mounted: a device path for file systems on devices.
    pub source: String,
}

/// The mounts in `text`. Lines that do not look like one are skipped: the kernel adds fields.
#[must_use]
pub fn mounts(text: &str) -> Vec<Mount> {
    text.lines().filter_map(mount).collect()
}

/// `36 35 98:0 /root /point options shared:1 - ext4 /dev/sda1 rw`
fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let device = numbers(left.nth(2)?)?;
    let point = unescape(left.nth(1)?);
    let source = unescape(right.split(' ').nth(1)?);
    Some(Mount {
        device,
        point,
        source,
    })
}

/// The files and devices that `text`, a `/proc/swaps`, names.
#[must_use]
pub fn swaps(text: &str) -> Vec<String> {
    let lines = text.lines().skip(1);
    lines
        .filter_map(|line| line.split_ascii_whitespace().next())
        .map(unescape)
        .collect()
}

/// `8:16` as major and minor number.
#[must_use]
pub fn numbers(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Undoes `\040` and its kin: the kernel writes blanks, tabs, newlines and backslashes in octal.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.first_chunk::<3>().filter(|_| first == b'\\');
        let code = octal
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = match code {
            Some(_) => after.get(3..).unwrap_or_default(),
            None => after,
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{mounts, swaps};

    #[test]
    fn a_mount_point_with_a_blank_keeps_its_name() {
        let text = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                    36 35 98:0 /mnt1 /mnt/my\\040disk rw master:1 shared:7 - ext3 /dev/root rw\n\
                    nonsense\n";
        let found = mounts(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].device, (98, 0));
        assert_eq!(found[1].point, "/mnt/my disk");
        assert_eq!(found[1].source, "/dev/root");
    }

    #[test]
    fn swaps_are_named_without_the_heading() {
        let text = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1 0 -2\n";
        assert_eq!(swaps(text), ["/dev/sda2"]);
        assert!(swaps("Filename\n").is_empty());
    }
}
