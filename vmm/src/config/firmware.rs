//! What a firmware file must be: told by its size and by the headers that every build has, so that a wrong one is named before a
//! guest starts with it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::files::FileProblem;

/// A BIOS lies below 4 GiB and its last 128 KiB below 1 MiB too.
const BIOS_UNIT: u64 = 64 << 10;
const MAX_BIOS: u64 = 256 << 10;
/// Code and variables of EFI together: the space between KVM's own pages and 4 GiB, rounded down.
const MAX_FLASH: u64 = 16 << 20;
/// What memory slots are made of.
const PAGE: u64 = 4096;

/// A firmware volume's header (PI 1.8 vol. 3 §3.2.1): its file system's GUID, its length, its signature.
const FV_GUID: std::ops::Range<usize> = 16..32;
const FV_LENGTH: std::ops::Range<usize> = 32..40;
const FV_SIGNATURE: std::ops::Range<usize> = 40..44;
const FV_HEADER: usize = 48;
/// `EFI_SYSTEM_NV_DATA_FV_GUID`: a volume of variables.
const VARIABLES_GUID: [u8; 16] =
    [0x8D, 0x2B, 0xF1, 0xFF, 0x96, 0x76, 0x8B, 0x4C, 0xA9, 0x85, 0x27, 0x47, 0x07, 0x5B, 0x4F, 0x50];
/// A far jump, which a BIOS has 16 bytes before its end.
const FAR_JUMP: u8 = 0xEA;

/// What can be wrong with firmware.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareProblem {
    /// Not a BIOS.
    #[error("is no BIOS: {0}; SeaBIOS' bios-256k.bin is needed")]
    NotBios(&'static str),
    /// Not the code of EFI.
    #[error("is no EFI code: {0}; OVMF's OVMF_CODE_4M.fd is needed")]
    NotCode(&'static str),
    /// Not variables of EFI.
    #[error("holds no EFI variables: {0}; a copy of OVMF's OVMF_VARS_4M.fd is needed")]
    NotVariables(&'static str),
    /// Variables cut off or grown.
    #[error(
        "has {size} bytes, but says that its EFI variables take {length}; a copy of OVMF's OVMF_VARS_4M.fd is needed"
    )]
    VariablesSize {
        /// Of the file.
        size: u64,
        /// What its header says.
        length: u64,
    },
    /// Variables of another build.
    #[error(
        "has {variables} bytes, which together with {code} bytes of code is no whole flash; it belongs to another build"
    )]
    Mismatch {
        /// Bytes.
        variables: u64,
        /// Bytes.
        code: u64,
    },
}

/// Whether `file` is a BIOS; its size.
pub(super) fn bios(file: &File) -> Result<u64, FileProblem> {
    let size = file.metadata()?.size();
    let wrong = |what| Err(FirmwareProblem::NotBios(what).into());
    if size == 0 || !size.is_multiple_of(BIOS_UNIT) || size > MAX_BIOS {
        return wrong("its size is not a multiple of 64 KiB up to 256 KiB");
    }
    let mut reset = [0];
    file.read_exact_at(&mut reset, size - 16)?;
    if volume(file)?.is_some() {
        return wrong("it is EFI firmware");
    }
    if reset == [FAR_JUMP] { Ok(size) } else { wrong("it does not start with a jump where a CPU starts") }
}

/// Whether `file` is the code of EFI; its size.
pub(super) fn code(file: &File) -> Result<u64, FileProblem> {
    let size = file.metadata()?.size();
    let wrong = |what| Err(FirmwareProblem::NotCode(what).into());
    match volume(file)? {
        None => wrong("it does not start with a firmware volume"),
        Some(volume) if volume.guid == VARIABLES_GUID => {
            wrong("it starts with variables; a file with code alone is needed")
        }
        Some(_) if !size.is_multiple_of(PAGE) || size > MAX_FLASH => {
            wrong("its size is not a multiple of 4 KiB up to 16 MiB")
        }
        Some(_) => Ok(size),
    }
}

/// Whether `file` holds variables for `code` bytes of code; its size.
pub(super) fn variables(file: &File, code: u64) -> Result<u64, FileProblem> {
    let size = file.metadata()?.size();
    let Some(volume) = volume(file)? else {
        return Err(FirmwareProblem::NotVariables("it does not start with a firmware volume").into());
    };
    if volume.guid != VARIABLES_GUID {
        return Err(FirmwareProblem::NotVariables("it is another volume").into());
    }
    if volume.length != size {
        return Err(FirmwareProblem::VariablesSize { size, length: volume.length }.into());
    }
    // A build is made for one flash, whose size is a power of two.
    if !size.is_multiple_of(PAGE) || size + code > MAX_FLASH || !(size + code).is_power_of_two() {
        return Err(FirmwareProblem::Mismatch { variables: size, code }.into());
    }
    Ok(size)
}

struct Volume {
    guid: [u8; 16],
    length: u64,
}

/// The firmware volume that a file starts with.
fn volume(file: &File) -> io::Result<Option<Volume>> {
    let mut header = [0; FV_HEADER];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = header[FV_LENGTH].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let mut guid = [0; 16];
    guid.copy_from_slice(&header[FV_GUID]);
    Ok((&header[FV_SIGNATURE] == b"_FVH").then_some(Volume { guid, length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64, parts: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (at, bytes) in parts {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    fn vars(size: u64, length: u64) -> File {
        file(size, &[(16, &VARIABLES_GUID), (32, &length.to_le_bytes()), (40, b"_FVH")])
    }

    fn message<T: std::fmt::Debug>(result: Result<T, FileProblem>) -> String {
        result.unwrap_err().to_string()
    }

    const CODE: u64 = 0x37_C000;
    const VARS: u64 = 0x8_4000;

    #[test]
    fn firmware_is_told_by_its_headers() {
        let seabios = |size: u64| file(size, &[(size - 16, &[0xEA])]);
        assert_eq!(bios(&seabios(256 << 10)).unwrap(), 256 << 10);
        assert_eq!(bios(&seabios(128 << 10)).unwrap(), 128 << 10);
        assert_eq!(code(&file(CODE, &[(40, b"_FVH")])).unwrap(), CODE);
        assert_eq!(variables(&vars(VARS, VARS), CODE).unwrap(), VARS);
    }

    #[test]
    fn wrong_firmware_is_named() {
        assert!(message(bios(&file(100_000, &[]))).contains("multiple of 64 KiB"));
        assert!(message(bios(&file(512 << 10, &[]))).contains("multiple of 64 KiB"));
        assert!(message(bios(&file(128 << 10, &[]))).contains("jump"));
        assert!(message(bios(&file(128 << 10, &[(40, b"_FVH")]))).contains("EFI firmware"));
        assert!(message(code(&file(CODE, &[]))).contains("does not start with a firmware volume"));
        assert!(message(code(&file(10, &[]))).contains("does not start with a firmware volume"));
        assert!(message(code(&file(CODE + 1, &[(40, b"_FVH")]))).contains("multiple of 4 KiB"));
        assert!(message(code(&vars(2 << 20, VARS))).contains("starts with variables"));
        assert!(message(variables(&file(VARS, &[(40, b"_FVH")]), CODE)).contains("another volume"));
        assert!(message(variables(&file(VARS, &[]), CODE)).contains("no EFI variables"));
        assert!(message(variables(&vars(VARS - 4096, VARS), CODE)).contains("has 536576 bytes, but says"));
        assert!(message(variables(&vars(0x2_0000, 0x2_0000), CODE)).contains("another build"));
    }
}
