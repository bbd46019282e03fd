use super::*;

fn number(bytes: &[u8]) -> usize {
    let (little, big) = (u32::from_le_bytes(bytes[..4].try_into().unwrap()), &bytes[4..8]);
    assert_eq!(big, little.to_be_bytes(), "both byte orders");
    usize::try_from(little).unwrap()
}

/// A descriptor's label and its root's record.
fn view(image: &[u8], descriptor: usize) -> (&[u8], &[u8]) {
    let descriptor = &image[descriptor * SECTOR..][..SECTOR];
    assert_eq!(&descriptor[1..7], b"CD001\x01");
    assert_eq!(number(&descriptor[80..]) * SECTOR, image.len(), "the volume is the whole image");
    (&descriptor[40..72], &descriptor[156..190])
}

/// The names and folders of a path table, each with its parent's number.
fn path_table(image: &[u8], descriptor: usize, big: bool) -> Vec<(Vec<u8>, usize, u16)> {
    let descriptor = &image[descriptor * SECTOR..][..SECTOR];
    let long = if big { u32::from_be_bytes } else { u32::from_le_bytes };
    let short = if big { u16::from_be_bytes } else { u16::from_le_bytes };
    let at = if big { 148 } else { 140 };
    let start = long(descriptor[at..at + 4].try_into().unwrap());
    let mut table = &image[usize::try_from(start).unwrap() * SECTOR..][..number(&descriptor[132..])];
    let mut entries = Vec::new();
    while let [length, 0, a, b, c, d, e, f, rest @ ..] = table {
        let length = usize::from(*length);
        let sector = usize::try_from(long([*a, *b, *c, *d])).unwrap();
        entries.push((rest[..length].to_vec(), sector, short([*e, *f])));
        table = &rest[length + length % 2..];
    }
    assert!(table.is_empty());
    entries
}

fn records<'a>(image: &'a [u8], folder: &[u8]) -> Vec<&'a [u8]> {
    let mut records = Vec::new();
    for sector in content(image, folder).chunks(SECTOR) {
        let mut rest = sector;
        while rest.first().is_some_and(|length| *length > 0) {
            let (record, after) = rest.split_at(usize::from(rest[0]));
            assert!(record.len().is_multiple_of(2));
            records.push(record);
            rest = after;
        }
    }
    records
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

fn text(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks(2).map(|pair| u16::from_be_bytes(pair.try_into().unwrap())).collect();
    String::from_utf16(&units).unwrap().trim_end().to_owned()
}

/// The files of an image, folder by folder, as both kinds of readers see them.
pub(in super::super) fn read(image: &[u8], label: &str) -> Vec<(String, Vec<u8>)> {
    let (primary, root) = view(image, 16);
    assert_eq!(String::from_utf8_lossy(primary).trim_end(), label);
    let (joliet, wide_root) = view(image, 17);
    assert_eq!(text(joliet), label);
    let mut files = Vec::new();
    read_folder(image, (root, wide_root), "", &mut files);
    files
}

fn read_folder(image: &[u8], (plain, wide): (&[u8], &[u8]), path: &str, files: &mut Vec<(String, Vec<u8>)>) {
    let (records, wide_records) = (records(image, plain), records(image, wide));
    assert_eq!(records.len(), wide_records.len());
    assert_eq!(number(&records[0][2..]), number(&plain[2..]), "a folder begins with itself");
    for (record, wide_record) in records[2..].iter().zip(&wide_records[2..]) {
        let (signature, name) = system(record)[1];
        assert_eq!(signature, b"NM");
        let name = String::from_utf8(name[1..].to_vec()).unwrap();
        assert_eq!(text(identifier(wide_record)), name);
        let path = format!("{path}{name}");
        if record[25] == 2 {
            read_folder(image, (record, wide_record), &format!("{path}/"), files);
            continue;
        }
        assert_eq!(content(image, wide_record), content(image, record));
        files.push((path, content(image, record).to_vec()));
    }
}

fn file<'a>(path: &'a str, content: &'a [u8]) -> IsoFile<'a> {
    IsoFile { path, content, mode: 0o400 }
}

#[test]
fn files_come_back_by_both_names() {
    let long = vec![7; SECTOR + 1];
    let name = "n".repeat(103);
    let files = [("a", &b"x"[..]), ("empty", b""), ("long", &long), (&name, b"y"), ("z/a", b"1"), ("z/y/b", b"2")];
    let image = image("label", &files.map(|(name, content)| file(name, content))).unwrap();
    assert_eq!(read(&image, "label"), files.map(|(name, content)| (name.to_owned(), content.to_vec())));
    // Descriptors, path tables, folders, files.
    assert_eq!(image.len(), (16 + 3 + 4 + 6 + 6) * SECTOR);
    assert_eq!(&image[18 * SECTOR..][..7], TERMINATOR);
}

#[test]
fn no_files_and_very_many() {
    assert_eq!(read(&image("l", &[]).unwrap(), "l"), []);
    let files: Vec<_> =
        (0..1000).map(|number| (format!("file-{number:04}"), number.to_string().into_bytes())).collect();
    let iso: Vec<_> = files.iter().map(|(name, content)| file(name, content)).collect();
    assert_eq!(read(&image("l", &iso).unwrap(), "l"), files);
    let folders: Vec<_> = (0..200).map(|number| format!("folder-{number:04}/x")).collect();
    let iso: Vec<_> = folders.iter().map(|path| file(path, b"1")).collect();
    let image = image("l", &iso).unwrap();
    assert_eq!(read(&image, "l").len(), 200);
    for (descriptor, big) in [(16, false), (16, true), (17, false), (17, true)] {
        let table = path_table(&image, descriptor, big);
        assert_eq!((table.len(), table[0].0.as_slice(), table[200].2), (201, &[0][..], 1));
        let root = records(&image, view(&image, descriptor).1);
        let found = root[2..].iter().map(|record| (identifier(record).to_vec(), number(&record[2..]), 1));
        assert!(found.eq(table[1..].iter().cloned()), "{descriptor} {big}");
    }
}

#[test]
fn a_folder_begins_with_itself_and_its_extensions() {
    let files = [IsoFile { mode: 0o444, ..file("folder/b", b"y") }, file("user-data", b"x")];
    let image = image("l", &files).unwrap();
    let root = records(&image, view(&image, 16).1);
    assert_eq!((identifier(root[0]), identifier(root[1])), (&[0][..], &[1][..]));
    let own = system(root[0]);
    assert_eq!(own[0], (&b"SP"[..], &b"\xBE\xEF\0"[..]));
    assert_eq!((own[1].0, number(own[1].1), number(&own[1].1[8..])), (&b"PX"[..], 0o040_555, 3));
    assert_eq!(own[2], (&b"ER"[..], &b"\x0A\0\0\x01RRIP_1991A"[..]));
    assert_eq!((identifier(root[2]), identifier(root[3])), (&b"FOLDER"[..], &b"USER_DATA.;1"[..]));
    assert_eq!(number(system(root[3])[0].1), 0o100_400, "for root alone");
    let folder = records(&image, root[2]);
    assert_eq!((number(&folder[1][2..]), folder.len()), (number(&root[0][2..]), 3), "its parent is the root");
    assert_eq!(number(system(folder[2])[0].1), 0o100_444);
}
