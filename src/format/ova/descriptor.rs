//! The OVF descriptor → the disks that it names. Pure.
//!
//! DSP0243 2.1.1 ("Open Virtualization Format Specification"), sections 7.1 (References) and 9.1
//! (DiskSection). Names of attributes are taken without their prefix: some writers leave it out.

use super::Fault;
use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::attributes::Attribute;
use quick_xml::events::{BytesStart, Event};

/// Elements that are looked at. A descriptor has some hundreds.
const ELEMENTS_MAX: usize = 100_000;

/// Disks and files that are kept.
const ENTRIES_MAX: usize = 1024;

/// A disk of a virtual system.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OvfDisk {
    /// `ovf:diskId`.
    pub id: String,
    /// The file that holds it; `None` of a disk that begins blank.
    pub file: Option<OvfFile>,
    /// Bytes, as the descriptor says.
    pub capacity: Option<u64>,
}

/// A file that a descriptor names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OvfFile {
    /// `ovf:id`.
    pub id: String,
    /// `ovf:href`: its name.
    pub href: String,
    /// `ovf:size`, in bytes.
    pub size: Option<u64>,
    /// `ovf:chunkSize`: it is in several pieces.
    pub chunked: bool,
}

/// The disks of the descriptor `text`, in its order.
///
/// # Errors
/// It is no XML, or no descriptor.
pub fn disks(text: &[u8]) -> Result<Vec<OvfDisk>, Fault> {
    let text = std::str::from_utf8(text).map_err(|_| Fault::Descriptor("not UTF-8".to_owned()))?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    let (mut files, mut disks) = (Vec::new(), Vec::new());
    let mut found = false;
    for _ in 0..ELEMENTS_MAX {
        match reader.read_event().map_err(syntax)? {
            Event::Start(tag) | Event::Empty(tag) => match tag.local_name().as_ref() {
                "Envelope" => found = true,
                "File" => files.push(file(&attributes(&tag)?)),
                "Disk" => disks.push(disk(&attributes(&tag)?)?),
                _ => {}
            },
            Event::DocType(_) => return Err(Fault::Descriptor("a document type".to_owned())),
            Event::Eof if found => return joined(disks, &files),
            Event::Eof => return Err(Fault::Descriptor("no Envelope".to_owned())),
            _ => {}
        }
        if files.len().saturating_add(disks.len()) > ENTRIES_MAX {
            break;
        }
    }
    Err(Fault::Descriptor("too many elements".to_owned()))
}

/// Attributes by their names without prefix.
type Attributes = Vec<(String, String)>;

fn attributes(tag: &BytesStart<'_>) -> Result<Attributes, Fault> {
    let mut all = tag.attributes();
    let pair = |attribute: Result<Attribute<'_>, _>| {
        let attribute = attribute.map_err(syntax)?;
        let value = attribute.normalized_value(XmlVersion::Explicit1_0);
        let name = attribute.key.local_name().as_ref().to_owned();
        Ok((name, value.map_err(syntax)?.into_owned()))
    };
    all.with_checks(false).map(pair).collect()
}

fn get<'a>(attributes: &'a Attributes, name: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.trim())
}

fn file(attributes: &Attributes) -> OvfFile {
    let text = |name| get(attributes, name).unwrap_or_default().to_owned();
    OvfFile {
        id: text("id"),
        href: text("href"),
        size: get(attributes, "size").and_then(|size| size.parse().ok()),
        chunked: get(attributes, "chunkSize").is_some_and(|size| size != "0"),
    }
}

/// Its file is named by id only, until all files are known.
fn disk(attributes: &Attributes) -> Result<OvfDisk, Fault> {
    let id = get(attributes, "diskId").unwrap_or_default().to_owned();
    if get(attributes, "parentRef").is_some_and(|parent| !parent.is_empty()) {
        return Err(Fault::Difference(id));
    }
    let file = get(attributes, "fileRef").map(|id| OvfFile {
        id: id.to_owned(),
        ..OvfFile::default()
    });
    let capacity = get(attributes, "capacity").and_then(|text| text.parse::<u64>().ok());
    let unit = unit(get(attributes, "capacityAllocationUnits").unwrap_or("byte"));
    Ok(OvfDisk {
        id,
        file,
        capacity: capacity
            .zip(unit)
            .and_then(|(count, unit)| count.checked_mul(unit)),
    })
}

/// "byte", "byte * 2^30": the units of DSP0004 that capacities are told in.
fn unit(text: &str) -> Option<u64> {
    let text: String = text.split_whitespace().collect();
    let factor = match text.as_str() {
        "byte" => return Some(1),
        text => text.strip_prefix("byte*")?,
    };
    match factor.split_once('^') {
        Some((base, power)) => {
            let (base, power): (u64, u32) = (base.parse().ok()?, power.parse().ok()?);
            base.checked_pow(power)
        }
        None => factor.parse().ok(),
    }
}

fn joined(disks: Vec<OvfDisk>, files: &[OvfFile]) -> Result<Vec<OvfDisk>, Fault> {
    let join = |mut disk: OvfDisk| {
        if let Some(wanted) = &disk.file {
            let found = files.iter().find(|file| file.id == wanted.id);
            let file = found.ok_or_else(|| Fault::NoFile(wanted.id.clone()))?;
            disk.file = Some(file.clone());
        }
        Ok(disk)
    };
    disks.into_iter().map(join).collect()
}

fn syntax(error: impl std::fmt::Display) -> Fault {
    Fault::Descriptor(error.to_string())
}

/// The disk that is wanted: by the name of its file, or its id; the only one if none is named.
///
/// # Errors
/// There is none, or more than one.
pub fn choose<'a>(disks: &'a [OvfDisk], wanted: Option<&str>) -> Result<&'a OvfDisk, Fault> {
    let mut with_file = disks.iter().filter(|disk| disk.file.is_some());
    let names = || {
        let files = disks.iter().filter_map(|disk| disk.file.as_ref());
        let names: Vec<_> = files.map(|file| file.href.as_str()).collect();
        names.join(", ")
    };
    match wanted {
        Some(name) => {
            let is = |disk: &&OvfDisk| {
                let file = disk.file.as_ref();
                disk.id == name || file.is_some_and(|file| file.href == name)
            };
            let (name, all) = (name.to_owned(), names());
            with_file.find(is).ok_or(Fault::NoSuchDisk { name, all })
        }
        None => match (with_file.next(), with_file.next()) {
            (Some(disk), None) => Ok(disk),
            (None, _) => Err(Fault::NoDisk),
            (Some(_), Some(_)) => Err(Fault::Several(names())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{choose, disks, unit};
    use crate::format::ova::Fault;
    use crate::testkit::ova::descriptor;

    #[test]
    fn disks_are_joined_with_their_files() {
        let text = descriptor(&[("one.vmdk", 5 << 30), ("two&.vmdk", 1 << 20)]);
        let found = disks(text.as_bytes()).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].file.as_ref().unwrap().href, "two&.vmdk");
        assert_eq!(found[0].capacity, Some(5 << 30));
        assert_eq!(choose(&found, Some("one.vmdk")).unwrap().id, "disk0");
        assert_eq!(choose(&found, Some("disk1")).unwrap().id, "disk1");
        let several = choose(&found, None).unwrap_err();
        assert_eq!(several, Fault::Several("one.vmdk, two&.vmdk".to_owned()));
        assert!(matches!(
            choose(&found, Some("x")),
            Err(Fault::NoSuchDisk { .. })
        ));
        assert_eq!(choose(&found[..1], None).unwrap().id, "disk0");
        assert_eq!(choose(&[], None), Err(Fault::NoDisk));
    }

    #[test]
    fn capacities_are_told_in_units() {
        assert_eq!(unit("byte"), Some(1));
        assert_eq!(unit("byte * 2^30"), Some(1 << 30));
        assert_eq!(unit("byte*1024"), Some(1024));
        assert_eq!(unit("byte * 2^99"), None);
        assert_eq!(unit("bits"), None);
    }

    #[test]
    fn what_is_no_descriptor_is_an_error() {
        let bomb = "<!DOCTYPE a [<!ENTITY b \"c\">]><Envelope/>";
        let many = format!("<Envelope>{}</Envelope>", "<Disk diskId='a'/>".repeat(2000));
        let lost = "<Envelope><Disk diskId='a' fileRef='gone'/></Envelope>";
        for text in ["", "<a/>", "<Envelope", bomb, &many, lost] {
            assert!(disks(text.as_bytes()).is_err(), "{text:.40}");
        }
        assert!(disks(&[0xff, 0xfe]).is_err());
    }
}
