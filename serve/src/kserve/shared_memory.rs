//! POSIX shared memory of the host, as clients register it. It is read and written as the file that it is, at offsets:
//! nothing is mapped, so a client that shrinks its memory gets an error and the server no signal.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use detectd_proto::inference as wire;
use detectd_proto::inference::infer_parameter::ParameterChoice;
use detectd_proto::inference::system_shared_memory_status_response::RegionStatus;
use parking_lot::RwLock;

use crate::error::Error;

const FOLDER: &str = "/dev/shm";
const MAX_NAME: usize = 255;
/// Each region holds a file open.
const MAX_REGIONS: usize = 1024;

/// The parameters of a tensor that lies in shared memory.
const PARAMETERS: [&str; 3] = ["shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"];

/// The registered regions.
pub struct SharedMemory {
    enabled: bool,
    regions: RwLock<BTreeMap<String, Arc<Region>>>,
}

struct Region {
    key: String,
    offset: u64,
    byte_size: u64,
    file: File,
}

/// A part of a region, which a tensor lies in.
pub struct Span {
    region: Arc<Region>,
    name: String,
    /// From the region's begin.
    offset: u64,
    byte_size: u64,
}

impl SharedMemory {
    /// No regions. Unless `enabled`, none can be registered.
    #[must_use]
    pub fn new(enabled: bool) -> Self {
        Self { enabled, regions: RwLock::default() }
    }

    /// Regions can be registered.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Opens a region. Blocks for a moment.
    ///
    /// # Errors
    /// It is off; a name that is taken; a key that is no shared memory; memory that ends before the region does.
    pub fn register(&self, request: &wire::SystemSharedMemoryRegisterRequest) -> Result<(), Error> {
        if !self.enabled {
            let hint = "it is off: set `server.shared_memory = true`";
            return Err(Error::unimplemented(format!("system shared memory: {hint}")));
        }
        let wire::SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = request.clone();
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Error::invalid(format!("name: expected 1 to {MAX_NAME} bytes, got {}", name.len())));
        }
        let file = open(&key).map_err(|reason| Error::invalid(format!("key `{key}`: {reason}")))?;
        let length = length(&file).map_err(|reason| Error::invalid(format!("key `{key}`: {reason}")))?;
        if byte_size == 0 || offset.checked_add(byte_size).is_none_or(|end| end > length) {
            return Err(Error::invalid(format!(
                "region `{name}`: expected 1 byte or more within the {length} of `{key}`, got {byte_size} from {offset}"
            )));
        }
        let mut regions = self.regions.write();
        if regions.contains_key(&name) {
            return Err(Error::invalid(format!("region `{name}` is registered already: unregister it first")));
        }
        if regions.len() >= MAX_REGIONS {
            let message = format!("{MAX_REGIONS} regions are registered, the limit: unregister some");
            return Err(Error::exhausted(message, Duration::from_secs(1)));
        }
        regions.insert(name, Arc::new(Region { key, offset, byte_size, file }));
        Ok(())
    }

    /// Forgets the region `name`, or all when it is empty. Requests that use it are not disturbed.
    pub fn unregister(&self, name: &str) {
        let mut regions = self.regions.write();
        if name.is_empty() {
            regions.clear();
        } else {
            regions.remove(name);
        }
    }

    /// The region `name`, or all when it is empty.
    ///
    /// # Errors
    /// There is no such region.
    pub fn status(&self, name: &str) -> Result<HashMap<String, RegionStatus>, Error> {
        let regions = self.regions.read();
        if !name.is_empty() && !regions.contains_key(name) {
            return Err(unknown(name));
        }
        let wanted = regions.iter().filter(|(known, _)| name.is_empty() || *known == name);
        let status = wanted.map(|(name, region)| {
            let Region { key, offset, byte_size, .. } = region.as_ref();
            let (offset, byte_size) = (*offset, *byte_size);
            (name.clone(), RegionStatus { name: name.clone(), key: key.clone(), offset, byte_size })
        });
        Ok(status.collect())
    }

    /// Where the tensor with these parameters lies; `None` if not in shared memory.
    ///
    /// # Errors
    /// A parameter that is none of `PARAMETERS`, an unknown region, a part beyond its end.
    pub(super) fn span(&self, parameters: &HashMap<String, wire::InferParameter>) -> Result<Option<Span>, Error> {
        if let Some(other) = parameters.keys().filter(|name| !PARAMETERS.contains(&name.as_str())).min() {
            let known = PARAMETERS.join(", ");
            return Err(Error::invalid(format!("parameters: there is no `{other}`; there are {known}")));
        }
        if parameters.is_empty() {
            return Ok(None);
        }
        let [region, offset, byte_size] =
            PARAMETERS.map(|name| (name, parameters.get(name).map(|parameter| parameter.parameter_choice.as_ref())));
        let name = match region.1 {
            Some(Some(ParameterChoice::StringParam(name))) => name.clone(),
            _ => return Err(Error::invalid(format!("parameters.{}: expected the name of a region", region.0))),
        };
        let offset = size(offset)?.unwrap_or(0);
        let byte_size =
            size(byte_size)?.ok_or_else(|| Error::invalid(format!("parameters.{}: it is missing", PARAMETERS[2])))?;
        let region = self.regions.read().get(&name).cloned().ok_or_else(|| unknown(&name))?;
        if offset.checked_add(byte_size).is_none_or(|end| end > region.byte_size) {
            let size = region.byte_size;
            return Err(Error::invalid(format!(
                "region `{name}`: expected a part of its {size} bytes, got {byte_size} from {offset}"
            )));
        }
        Ok(Some(Span { region, name, offset, byte_size }))
    }
}

impl Span {
    /// Its length in bytes.
    pub fn byte_size(&self) -> u64 {
        self.byte_size
    }

    /// Reads it whole. Blocks as long as copying memory takes.
    ///
    /// # Errors
    /// The memory has become shorter.
    pub fn read(&self) -> Result<Bytes, Error> {
        let length = usize::try_from(self.byte_size).map_err(|_| self.refuse("it is larger than memory can be"))?;
        self.check_length()?;
        let mut bytes = vec![0; length];
        self.region.file.read_exact_at(&mut bytes, self.begin()).map_err(|error| self.refuse(error))?;
        Ok(bytes.into())
    }

    /// Writes `bytes` to its begin. Blocks as long as copying memory takes.
    ///
    /// # Errors
    /// `bytes` is longer, or the memory has become shorter.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() as u64 > self.byte_size {
            return Err(self.refuse(format_args!(
                "the output has {} bytes, more than {}",
                bytes.len(),
                self.byte_size
            )));
        }
        // Writing beyond the end would make it longer again.
        self.check_length()?;
        self.region.file.write_all_at(bytes, self.begin()).map_err(|error| self.refuse(error))
    }

    fn begin(&self) -> u64 {
        self.region.offset + self.offset
    }

    /// Whoever made the memory may have shrunk it since it was registered.
    fn check_length(&self) -> Result<(), Error> {
        let (length, end) =
            (length(&self.region.file).map_err(|error| self.refuse(error))?, self.begin() + self.byte_size);
        if length < end {
            return Err(self.refuse(format_args!("its memory has {length} bytes now, the tensor ends at {end}")));
        }
        Ok(())
    }

    fn refuse(&self, reason: impl std::fmt::Display) -> Error {
        Error::invalid(format!("region `{}`: {reason}", self.name))
    }
}

fn unknown(name: &str) -> Error {
    Error::not_found(format!("there is no shared memory region `{name}`"))
}

fn size((name, value): (&str, Option<Option<&ParameterChoice>>)) -> Result<Option<u64>, Error> {
    let Some(value) = value else { return Ok(None) };
    let size = match value {
        Some(ParameterChoice::Int64Param(value)) => u64::try_from(*value).ok(),
        Some(ParameterChoice::Uint64Param(value)) => Some(*value),
        _ => None,
    };
    size.map(Some).ok_or_else(|| Error::invalid(format!("parameters.{name}: expected a number of bytes")))
}

/// Opens shared memory by the name that `shm_open` takes: one name in the one folder, and no link out of it.
fn open(key: &str) -> Result<File, String> {
    let name = key.strip_prefix('/').unwrap_or(key);
    if name.is_empty() || name.len() > MAX_NAME || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(format!("expected a name of 1 to {MAX_NAME} bytes without a slash but the first"));
    }
    // Neither a link is followed nor a pipe waited for.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(Path::new(FOLDER).join(name));
    let file = file.map_err(|error| error.to_string())?;
    let is_file = file.metadata().map_err(|error| error.to_string())?.is_file();
    if is_file { Ok(file) } else { Err("it is no shared memory".into()) }
}

fn length(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    fn request(name: &str, key: &str, offset: u64, byte_size: u64) -> wire::SystemSharedMemoryRegisterRequest {
        wire::SystemSharedMemoryRegisterRequest { name: name.into(), key: key.into(), offset, byte_size }
    }

    /// Shared memory of ten bytes that counts up, and its key.
    fn memory() -> (tempfile::NamedTempFile, String) {
        let file = tempfile::Builder::new().prefix("detectd-test-").tempfile_in(FOLDER).unwrap();
        file.as_file().write_all_at(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 0).unwrap();
        let key = format!("/{}", file.path().file_name().unwrap().to_string_lossy());
        (file, key)
    }

    fn at(region: &str, offset: i64, byte_size: i64) -> HashMap<String, wire::InferParameter> {
        let parameter = |choice| wire::InferParameter { parameter_choice: Some(choice) };
        HashMap::from([
            (PARAMETERS[0].to_owned(), parameter(ParameterChoice::StringParam(region.into()))),
            (PARAMETERS[1].to_owned(), parameter(ParameterChoice::Int64Param(offset))),
            (PARAMETERS[2].to_owned(), parameter(ParameterChoice::Int64Param(byte_size))),
        ])
    }

    #[test]
    fn parts_are_read_and_written_within_the_region() {
        let (file, key) = memory();
        let shared = SharedMemory::new(true);
        shared.register(&request("a", &key, 2, 6)).unwrap();
        let span = shared.span(&at("a", 1, 3)).unwrap().unwrap();
        assert_eq!(span.read().unwrap()[..], [3, 4, 5]);
        span.write(&[9, 9]).unwrap();
        assert!(span.write(&[0; 4]).unwrap_err().message.contains("4 bytes, more than 3"));
        let mut all = [0; 10];
        file.as_file().read_exact_at(&mut all, 0).unwrap();
        assert_eq!(all, [0, 1, 2, 9, 9, 5, 6, 7, 8, 9]);
        assert_eq!(shared.status("").unwrap()["a"].byte_size, 6);
        shared.unregister("a");
        assert_eq!(span.read().unwrap()[..], [9, 9, 5], "who has it keeps it");
        assert_eq!(shared.status("a").unwrap_err().code, ErrorCode::NotFound);
    }

    #[test]
    fn memory_that_shrank_is_an_error_and_is_not_made_longer() {
        let (file, key) = memory();
        let shared = SharedMemory::new(true);
        shared.register(&request("a", &key, 0, 10)).unwrap();
        let span = shared.span(&at("a", 0, 10)).unwrap().unwrap();
        file.as_file().set_len(4).unwrap();
        assert!(span.read().unwrap_err().message.contains("4 bytes now"));
        assert!(span.write(&[1; 10]).is_err());
        assert_eq!(file.as_file().metadata().unwrap().len(), 4);
    }

    #[test]
    fn what_cannot_be_registered_or_used_is_named() {
        let (_file, key) = memory();
        let shared = SharedMemory::new(true);
        let link = std::path::PathBuf::from(format!("{FOLDER}/detectd-test-link-{}", std::process::id()));
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        let link_key = link.file_name().unwrap().to_string_lossy().into_owned();
        let cases = [
            (request("", &key, 0, 1), "name: expected 1 to 255 bytes"),
            (request("a", "", 0, 1), "without a slash"),
            (request("a", "..", 0, 1), "without a slash"),
            (request("a", "/../../etc/passwd", 0, 1), "without a slash"),
            (request("a", "//etc/passwd", 0, 1), "without a slash"),
            (request("a", "a\0b", 0, 1), "without a slash"),
            (request("a", "/detectd-no-such-memory", 0, 1), "No such file"),
            (request("a", &link_key, 0, 1), "key `"),
            (request("a", &key, 0, 0), "got 0 from 0"),
            (request("a", &key, 5, 6), "within the 10 of"),
            (request("a", &key, u64::MAX, 2), "within the 10 of"),
        ];
        for (request, expected) in cases {
            let error = shared.register(&request).unwrap_err();
            assert!(error.message.contains(expected), "{}", error.message);
        }
        std::fs::remove_file(link).unwrap();
        assert!(shared.status("").unwrap().is_empty());
        shared.register(&request("a", &key, 0, 10)).unwrap();
        assert!(shared.register(&request("a", &key, 0, 10)).unwrap_err().message.contains("already"));

        let mut other = at("a", 0, 1);
        other.insert("classification".into(), wire::InferParameter::default());
        let mut no_size = at("a", 0, 1);
        no_size.remove(PARAMETERS[2]);
        let cases = [
            (at("b", 0, 1), "no shared memory region `b`"),
            (at("a", 0, 11), "a part of its 10 bytes, got 11 from 0"),
            (at("a", 10, 1), "got 1 from 10"),
            (at("a", -1, 1), "shared_memory_offset"),
            (no_size, "shared_memory_byte_size: it is missing"),
            (other, "there is no `classification`"),
        ];
        for (parameters, expected) in cases {
            let error = shared.span(&parameters).err().unwrap();
            assert!(error.message.contains(expected), "{}", error.message);
        }
        let off = SharedMemory::new(false).register(&request("a", &key, 0, 1)).unwrap_err();
        assert!(off.code == ErrorCode::Unimplemented && off.message.contains("server.shared_memory"));
    }
}
