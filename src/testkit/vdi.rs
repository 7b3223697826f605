//! VDIs made by hand, as VirtualBox's sources have them. Shares no code with the reader.

/// How a VDI is made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a block.
    pub block: usize,
    /// Bytes before the data of each block.
    pub extra: usize,
    /// 1 is dynamic, 2 fixed, 4 a difference.
    pub kind: u32,
    /// The last block comes first in the file.
    pub backwards: bool,
    /// What its UUID, that of its state, and those of its parent are made of.
    pub ids: [u8; 4],
}

impl Default for Made {
    fn default() -> Self {
        Self {
            size: 0,
            block: 8192,
            extra: 0,
            kind: 1,
            backwards: false,
            ids: [7, 7, 0, 0],
        }
    }
}

/// An image of these blocks. Of those that are `None`, each second one is marked as zeroes.
#[must_use]
pub fn image(blocks: &[Option<Vec<u8>>], made: &Made) -> Vec<u8> {
    let mut bytes = b"<<< made by hand >>>\n".to_vec();
    bytes.resize(64, 0);
    let data = (512 + blocks.len() * 4).next_multiple_of(512);
    let number = |number: usize| u32::try_from(number).unwrap_or(0);
    for field in [0xbeda_107f, 0x1_0001, 400, made.kind, 0] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.resize(0x154, 0);
    for field in [512, number(data), 0, 0, 0, 512, 0] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(made.size.to_le_bytes());
    let there = blocks.iter().flatten().count();
    for field in [made.block, made.extra, blocks.len(), there] {
        bytes.extend(number(field).to_le_bytes());
    }
    for id in made.ids {
        bytes.extend([id; 16]);
    }
    bytes.resize(512, 0);
    let mut order: Vec<usize> = (0..blocks.len())
        .filter(|at| blocks[*at].is_some())
        .collect();
    if made.backwards {
        order.reverse();
    }
    for (at, block) in blocks.iter().enumerate() {
        let free = u32::MAX - number(at % 2);
        let place = order.iter().position(|here| *here == at);
        let entry = place.filter(|_| block.is_some()).map_or(free, number);
        bytes.extend(entry.to_le_bytes());
    }
    bytes.resize(data, 0);
    for at in order {
        bytes.extend(vec![0xee; made.extra]);
        bytes.extend(blocks[at].iter().flatten());
    }
    bytes
}
