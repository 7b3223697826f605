//! OVAs by hand: those that nobody would make.

/// A tar header, with the right checksum.
#[must_use]
pub fn header(name: &str, kind: u8, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000644\0");
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// A tar file of these members, its end marked.
#[must_use]
pub fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, bytes) in members {
        all.extend(header(name, b'0', bytes.len() as u64));
        all.extend(*bytes);
        all.resize(all.len().next_multiple_of(512), 0);
    }
    all.extend([0; 1024]);
    all
}

/// An OVF descriptor of disks in such files, of so many bytes.
#[must_use]
pub fn descriptor(disks: &[(&str, u64)]) -> String {
    let escaped = |text: &str| text.replace('&', "&amp;");
    let file = |(number, (name, _)): (usize, &(&str, u64))| {
        format!(
            "<File ovf:href=\"{}\" ovf:id=\"file{number}\"/>",
            escaped(name)
        )
    };
    let disk = |(number, (_, size)): (usize, &(&str, u64))| {
        format!(
            "<Disk ovf:capacity=\"{}\" ovf:capacityAllocationUnits=\"byte * 2^9\" \
             ovf:diskId=\"disk{number}\" ovf:fileRef=\"file{number}\" \
             ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\"/>",
            size / 512
        )
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\">\n\
         <References>{}</References>\n<DiskSection><Info>disks</Info>{}</DiskSection>\n</Envelope>\n",
        disks.iter().enumerate().map(file).collect::<String>(),
        disks.iter().enumerate().map(disk).collect::<String>(),
    )
}
