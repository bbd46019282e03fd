use super::*;

fn number(bytes: &[u8]) -> usize {
    let (little, big) = (u32::from_le_bytes(bytes[..4].try_into().unwrap()), &bytes[4..8]);
    assert_eq!(big, little.to_be_bytes(), "both byte orders");
    usize::try_from(little).unwrap()
}

/// A descriptor's label and its folder's records.
fn view(image: &[u8], descriptor: usize) -> (&[u8], Vec<&[u8]>) {
    let descriptor = &image[descriptor * SECTOR..][..SECTOR];
    assert_eq!(&descriptor[1..7], b"CD001\x01");
    assert_eq!(number(&descriptor[80..]) * SECTOR, image.len(), "the volume is the whole image");
    let root = &descriptor[156..190];
    let mut folder = &image[number(&root[2..]) * SECTOR..][..number(&root[10..])];
    for (at, order) in [(140, u32::from_le_bytes as fn([u8; 4]) -> u32), (148, u32::from_be_bytes)] {
        let table = order(descriptor[at..at + 4].try_into().unwrap());
        let entry = &image[usize::try_from(table).unwrap() * SECTOR..][..10];
        assert_eq!(usize::try_from(order(entry[2..6].try_into().unwrap())).unwrap(), number(&root[2..]));
    }
    let mut records = Vec::new();
    while folder[0] > 0 {
        let (record, rest) = folder.split_at(usize::from(folder[0]));
        records.push(record);
        folder = rest;
    }
    (&descriptor[40..72], records)
}

fn content<'a>(image: &'a [u8], record: &[u8]) -> &'a [u8] {
    &image[number(&record[2..]) * SECTOR..][..number(&record[10..])]
}

fn identifier(record: &[u8]) -> &[u8] {
    &record[33..][..usize::from(record[32])]
}

/// The SUSP entries of a record: signature and what follows its version.
fn system(record: &[u8]) -> Vec<(&[u8], &[u8])> {
    let length = usize::from(record[32]);
    let mut rest = &record[33 + length + usize::from(length.is_multiple_of(2))..];
    let mut entries = Vec::new();
    while rest.len() >= 4 {
        let (entry, after) = rest.split_at(usize::from(rest[2]));
        entries.push((&entry[..2], &entry[4..]));
        rest = after;
    }
    entries
}

/// The files of an image, as both kinds of readers see them.
pub(in super::super) fn read(image: &[u8], label: &str) -> Vec<(String, Vec<u8>)> {
    let (primary, records) = view(image, 16);
    assert_eq!(String::from_utf8_lossy(primary).trim_end(), label);
    let (joliet, wide_records) = view(image, 17);
    let text = |bytes: &[u8]| {
        let units: Vec<u16> = bytes.chunks(2).map(|pair| u16::from_be_bytes(pair.try_into().unwrap())).collect();
        String::from_utf16(&units).unwrap().trim_end().to_owned()
    };
    assert_eq!(text(joliet), label);
    assert_eq!(records.len(), wide_records.len());
    let files = records[2..].iter().zip(&wide_records[2..]).map(|(record, wide_record)| {
        let (signature, name) = system(record)[1];
        assert_eq!(signature, b"NM");
        let name = String::from_utf8(name[1..].to_vec()).unwrap();
        assert_eq!(text(identifier(wide_record)), name);
        assert_eq!(content(image, wide_record), content(image, record));
        (name, content(image, record).to_vec())
    });
    files.collect()
}

#[test]
fn files_come_back_by_both_names() {
    let long = vec![7; SECTOR + 1];
    let files = [("a", &b"x"[..]), ("empty", b""), ("file-with-a-name-of-29-bytes-x", b"y"), ("long", &long)];
    let image = image("label", &files.map(|(name, content)| IsoFile { name, content }));
    assert_eq!(read(&image, "label"), files.map(|(name, content)| (name.to_owned(), content.to_vec())));
    assert_eq!(image.len(), (25 + 1 + 1 + 2) * SECTOR);
    assert_eq!(&image[18 * SECTOR..][..7], b"\xFFCD001\x01");
}

#[test]
fn a_folder_begins_with_itself_and_its_extensions() {
    let image = image("l", &[IsoFile { name: "user-data", content: b"x" }]);
    let (_, records) = view(&image, 16);
    assert_eq!((identifier(records[0]), identifier(records[1])), (&[0][..], &[1][..]));
    let own = system(records[0]);
    assert_eq!(own[0], (&b"SP"[..], &b"\xBE\xEF\0"[..]));
    assert_eq!((own[1].0, number(own[1].1)), (&b"PX"[..], 0o040_555));
    assert_eq!(own[2], (&b"ER"[..], &b"\x0A\0\0\x01RRIP_1991A"[..]));
    assert_eq!(identifier(records[2]), b"USER_DATA.;1");
    assert_eq!(number(system(records[2])[0].1), 0o100_400, "for root alone");
    // Records are of even length, and none crosses a sector.
    assert!(records.iter().all(|record| record.len().is_multiple_of(2)));
}
