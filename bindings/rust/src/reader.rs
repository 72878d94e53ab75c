//! Reads files from disk, in every format that libtz recognises, with safe functions around the
//! calls of libtz, which does no I/O.

use crate::tz;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::raw::c_char;
use std::{mem, ptr, slice, str};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Owns the header. All other pointers that the library returns are borrowed from it.
pub struct Reader {
    file: File,
    header: *mut tz::Header,
}

pub struct Tensor<'a> {
    pub name: &'a str,
    pub dtype: &'a str,
    pub shape: &'a [u64],
    pub decoded_size: u64,
    pub stored_size: u64,
    /// Only tz files have one.
    pub content_digest: Option<&'a [u8]>,
}

struct Plan(*mut tz::Plan);

impl Drop for Reader {
    fn drop(&mut self) {
        unsafe { tz::tz_header_free(self.header) }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        unsafe { tz::tz_plan_free(self.0) }
    }
}

/// Returns an error for a status other than OK, with the rule that the file breaks.
fn check(status: tz::Status, at: &tz::Diagnostic) -> Result<()> {
    match (status, at.rule) {
        (tz::OK, _) => Ok(()),
        (_, rule) => {
            let name = text(unsafe { tz::tz_status_name(status) })?;
            let what = text(unsafe { tz::tz_status_text(status) })?;
            let place = match rule {
                0 => String::new(),
                _ => format!(": byte {} breaks TZ1-{rule}", at.offset),
            };
            Err(format!("{what} ({name}){place}").into())
        }
    }
}

/// For calls that take no diagnostic.
fn ok(status: tz::Status) -> Result<()> {
    check(status, &new_diagnostic())
}

fn new_diagnostic() -> tz::Diagnostic {
    let struct_size = mem::size_of::<tz::Diagnostic>() as u32;
    tz::Diagnostic { struct_size, ..Default::default() }
}

fn text<'a>(name: *const c_char) -> Result<&'a str> {
    Ok(unsafe { CStr::from_ptr(name) }.to_str()?)
}

pub fn blake3(data: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    unsafe { tz::tz_blake3(data.as_ptr().cast(), data.len(), digest.as_mut_ptr()) };
    digest
}

fn read_at(file: &mut File, offset: u64, into: &mut [u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(into)
}

impl Reader {
    /// Reads as many first bytes as the library needs, in at most three reads.
    pub fn open(path: &str) -> Result<Reader> {
        for (name, size) in tz::SIZES {
            let built = unsafe { tz::tz_struct_size(name.as_ptr().cast()) };
            assert_eq!(built, *size, "libtz was built with another {name}");
        }
        let mut file = File::open(path)?;
        let file_size = file.seek(SeekFrom::End(0))?;
        let (mut header, mut needed) = (ptr::null_mut(), file_size.min(1 << 20));
        loop {
            let mut front = vec![0; needed as usize];
            read_at(&mut file, 0, &mut front)?;
            let (data, size, no_options) = (front.as_ptr().cast(), front.len(), ptr::null());
            let (out, more, mut at) = (&mut header, &mut needed, new_diagnostic());
            let status = unsafe {
                tz::tz_header_open(data, size, file_size, no_options, out, more, &mut at)
            };
            if status != tz::NEED_MORE {
                check(status, &at)?;
                return Ok(Reader { file, header });
            }
        }
    }

    pub fn tensor_count(&self) -> Result<u32> {
        let struct_size = mem::size_of::<tz::HeaderInfo>() as u32;
        let mut info = tz::HeaderInfo { struct_size, ..Default::default() };
        ok(unsafe { tz::tz_header_get(self.header, &mut info) })?;
        Ok(info.tensor_count)
    }

    pub fn find(&self, name: &str) -> Result<u32> {
        let (data, size, mut index) = (name.as_ptr().cast(), name.len(), 0);
        ok(unsafe { tz::tz_header_find(self.header, data, size, &mut index) })?;
        Ok(index)
    }

    /// Tensor `index`, in the order of names.
    pub fn tensor(&self, index: u32) -> Result<Tensor<'_>> {
        let struct_size = mem::size_of::<tz::Tensor>() as u32;
        let mut tensor = tz::Tensor { struct_size, ..Default::default() };
        ok(unsafe { tz::tz_header_tensor(self.header, index, &mut tensor) })?;
        let struct_size = mem::size_of::<tz::DtypeInfo>() as u32;
        let mut dtype = tz::DtypeInfo { struct_size, ..Default::default() };
        let known = unsafe { tz::tz_dtype(tensor.dtype, &mut dtype) } == tz::OK;
        let (name, rank) = (tensor.name.cast(), tensor.rank as usize);
        Ok(Tensor {
            name: str::from_utf8(unsafe {
                slice::from_raw_parts(name, tensor.name_size as usize)
            })?,
            dtype: if known { text(dtype.name)? } else { "?" },
            shape: unsafe { slice::from_raw_parts(tensor.shape, rank) },
            decoded_size: tensor.decoded_size,
            stored_size: tensor.stored_size,
            content_digest: match tensor.content_digest.is_null() {
                true => None,
                false => Some(unsafe { slice::from_raw_parts(tensor.content_digest, 32) }),
            },
        })
    }

    /// Reads the tensor's chunk entries, one range, unless it has none or the library has them.
    fn fetch_entries(&mut self, tensor: u32) -> Result<()> {
        let (mut range, mut count) = (tz::Range::default(), 0);
        ok(unsafe {
            tz::tz_header_entry_ranges(self.header, &tensor, 1, 0, &mut range, 1, &mut count)
        })?;
        let mut entries = vec![0; range.size as usize];
        read_at(&mut self.file, range.offset, &mut entries)?;
        let (data, size, mut at) = (entries.as_ptr().cast(), entries.len(), new_diagnostic());
        let status =
            unsafe { tz::tz_header_put_entries(self.header, range.offset, data, size, &mut at) };
        check(status, &at)
    }

    /// The decoded bytes of a tensor, after checking each chunk's BLAKE3.
    pub fn load(&mut self, tensor: u32) -> Result<Vec<u8>> {
        self.fetch_entries(tensor)?;
        let struct_size = mem::size_of::<tz::ReadItem>() as u32;
        let item = tz::ReadItem { struct_size, tensor, ..Default::default() };
        let (mut made, mut at) = (ptr::null_mut(), new_diagnostic());
        let no_options = ptr::null();
        let status =
            unsafe { tz::tz_plan_new(self.header, &item, 1, no_options, &mut made, &mut at) };
        check(status, &at)?;
        let plan = Plan(made); // freed before the header, which the plan needs
        let struct_size = mem::size_of::<tz::PlanInfo>() as u32;
        let mut info = tz::PlanInfo { struct_size, ..Default::default() };
        ok(unsafe { tz::tz_plan_get(plan.0, &mut info) })?;

        // One item has one allocation of its size, or none if it is empty.
        let mut values = vec![0; self.tensor(tensor)?.decoded_size as usize];
        let mut staging = vec![0; info.staging_size_max as usize]; // for compressed chunks
        for number in 0..info.request_count {
            let request = unsafe { *tz::tz_plan_requests(plan.0).add(number as usize) };
            let mut offset = request.offset;
            for index in 0..request.segment_count as usize {
                let first = request.segment_begin as usize;
                let segment = unsafe { *tz::tz_plan_segments(plan.0).add(first + index) };
                let range = segment.position as usize..(segment.position + segment.size) as usize;
                match segment.allocation {
                    tz::TO_NOWHERE => {}
                    tz::TO_STAGING => read_at(&mut self.file, offset, &mut staging[range])?,
                    _ => read_at(&mut self.file, offset, &mut values[range])?,
                }
                offset += segment.size;
            }
            let (memory, places) = (staging.as_mut_ptr().cast(), [values.as_mut_ptr().cast()]);
            let (size, places, how) = (request.size, places.as_ptr(), tz::VERIFY_DIGEST);
            let mut next = 0;
            let status = unsafe {
                tz::tz_plan_process(plan.0, number, size, memory, places, how, &mut next, &mut at)
            };
            check(status, &at)?;
        }
        Ok(values)
    }
}
