//! The command interface of a NOR flash with Intel's command set (JEDEC JESD68.01, Intel StrataFlash), as far as OVMF's driver
//! (`QemuFlashFvbServicesRuntimeDxe`) drives it: byte program, block erase, status, read array.

/// Bytes of a block that is erased at once.
pub const BLOCK: usize = 4096;

/// Commands.
mod command {
    pub const PROGRAM: [u8; 2] = [0x10, 0x40];
    pub const ERASE: u8 = 0x20;
    pub const CLEAR_STATUS: u8 = 0x50;
    pub const READ_STATUS: u8 = 0x70;
    pub const CONFIRM: u8 = 0xD0;
}
/// Status: the chip is ready for a command.
const READY: u8 = 1 << 7;
/// Status: an erase was not confirmed (erase and program errors at once, which means a wrong sequence).
const SEQUENCE_ERROR: u8 = 1 << 5 | 1 << 4;

/// What the chip waits for, and what it answers reads with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    /// Its content.
    #[default]
    Array,
    /// Its status.
    Status,
    /// The status; the next write is the byte to program.
    Program,
    /// The status; the next write confirms the erasure.
    Erase,
}

/// The chip less its content.
#[derive(Debug, Default)]
pub struct Chip {
    mode: Mode,
    status: u8,
}

/// What a write does to the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// What was written becomes content, where it was written.
    Program,
    /// A block becomes all ones.
    Erase {
        /// Its first byte.
        start: u64,
    },
}

impl Chip {
    /// Whether reads return the content.
    pub fn shows_array(&self) -> bool {
        self.mode == Mode::Array
    }

    /// What reads return while the content isn't shown.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// Takes a write of `byte` (the first of a wider one) at `offset`.
    pub fn write(&mut self, offset: u64, byte: u8) -> Effect {
        match self.mode {
            Mode::Array | Mode::Status => {
                self.mode = match byte {
                    command::ERASE => Mode::Erase,
                    command::CLEAR_STATUS => {
                        self.status = 0;
                        Mode::Status
                    }
                    command::READ_STATUS => Mode::Status,
                    program if command::PROGRAM.contains(&program) => Mode::Program,
                    // 0xFF, and whatever it doesn't know.
                    _ => Mode::Array,
                };
                Effect::None
            }
            Mode::Program => self.done(READY, Effect::Program),
            Mode::Erase if byte == command::CONFIRM => {
                self.done(READY, Effect::Erase { start: offset - offset % BLOCK as u64 })
            }
            Mode::Erase => self.done(READY | SEQUENCE_ERROR, Effect::None),
        }
    }

    fn done(&mut self, status: u8, effect: Effect) -> Effect {
        self.mode = Mode::Status;
        self.status |= status;
        effect
    }
}
