//! The part of libtz/include/tz.h that tz_show uses. A test compares the two; tz.h documents it.

use std::os::raw::{c_char, c_void};

pub type Status = i32;
pub const OK: Status = 0;
pub const NEED_MORE: Status = 1;
pub const TO_STAGING: u32 = u32::MAX;
pub const TO_NOWHERE: u32 = u32::MAX - 1;
pub const VERIFY_DIGEST: u32 = 2;

/// Declares structs with C layout, and a table of their names and sizes in C and in Rust.
macro_rules! structs {
    ($($c_name:literal $name:ident { $($field:ident: $type:ty),+ })+) => {
        $(
            #[repr(C)]
            #[derive(Clone, Copy)]
            pub struct $name { $(pub $field: $type),+ }

            impl Default for $name {
                /// All zero: fields are numbers, and pointers that may be NULL.
                fn default() -> Self {
                    unsafe { std::mem::zeroed() }
                }
            }
        )+
        pub const SIZES: &[(&str, usize)] =
            &[$((concat!($c_name, "\0"), std::mem::size_of::<$name>())),+];
    };
}

structs! {
    "tz_diagnostic" Diagnostic {
        struct_size: u32, rule: u32, offset: u64, tensor: u64, chunk: u64, reason: *const c_char,
        name_size: u32, reserved: u32, name: [c_char; 256]
    }
    "tz_dtype_info" DtypeInfo {
        struct_size: u32, unit_bits: u32, elements: u32, reserved: u32, name: *const c_char,
        safetensors: *const c_char
    }
    "tz_header_info" HeaderInfo {
        struct_size: u32, format: u32, tensor_count: u32, metadata_count: u32, node_count: u64,
        chunk_count: u64, chunk_size: u64, file_size: u64, header_size: u64, open_size: u64,
        decoded_size: u64, incompatible_flags: u64, compatible_flags: u64, file_digest: [u8; 32],
        is_encrypted: u32, reserved: u32
    }
    "tz_tensor" Tensor {
        struct_size: u32, dtype: u32, name: *const c_char, name_size: u64, shape: *const u64,
        rank: u32, order: u32, tie: u32, flags: u32, decoded_size: u64, stored_size: u64,
        data_offset: u64, chunk_count: u64, content_digest: *const u8
    }
    "tz_range" Range { offset: u64, size: u64 }
    "tz_read_item" ReadItem {
        struct_size: u32, tensor: u32, flags: u32, reserved: u32, begin: *const u64,
        end: *const u64
    }
    "tz_plan_info" PlanInfo {
        struct_size: u32, request_count: u32, segment_count: u64, piece_count: u64,
        allocation_count: u32, reserved: u32, staging_size_max: u64, gap_size_max: u64,
        bytes_read: u64, bytes_wanted: u64
    }
    "tz_request" Request {
        offset: u64, size: u64, segment_begin: u64, piece_begin: u64, segment_count: u32,
        piece_count: u32, staging_size: u64
    }
    "tz_segment" Segment { size: u64, position: u64, allocation: u32, reserved: u32 }
}

/// Opaque objects of the library.
#[repr(C)]
pub struct Header([u8; 0]);
#[repr(C)]
pub struct Plan([u8; 0]);

#[link(name = "tz", kind = "static")]
extern "C" {
    pub fn tz_status_name(status: Status) -> *const c_char;
    pub fn tz_status_text(status: Status) -> *const c_char;
    pub fn tz_struct_size(name: *const c_char) -> usize;
    pub fn tz_blake3(data: *const c_void, size: usize, digest: *mut u8);
    pub fn tz_dtype(code: u32, out: *mut DtypeInfo) -> Status;
    pub fn tz_header_open(
        front: *const c_void,
        front_size: usize,
        file_size: u64,
        options: *const c_void,
        out: *mut *mut Header,
        needed: *mut u64,
        diagnostic: *mut Diagnostic,
    ) -> Status;
    pub fn tz_header_free(header: *mut Header);
    pub fn tz_header_get(header: *const Header, out: *mut HeaderInfo) -> Status;
    pub fn tz_header_tensor(header: *const Header, index: u32, out: *mut Tensor) -> Status;
    pub fn tz_header_find(
        header: *const Header,
        name: *const c_char,
        name_size: usize,
        index: *mut u32,
    ) -> Status;
    pub fn tz_header_entry_ranges(
        header: *const Header,
        tensors: *const u32,
        tensor_count: usize,
        gap_max: u64,
        out: *mut Range,
        capacity: usize,
        needed: *mut usize,
    ) -> Status;
    pub fn tz_header_put_entries(
        header: *mut Header,
        offset: u64,
        bytes: *const c_void,
        size: usize,
        diagnostic: *mut Diagnostic,
    ) -> Status;
    pub fn tz_plan_new(
        header: *const Header,
        items: *const ReadItem,
        item_count: usize,
        options: *const c_void,
        out: *mut *mut Plan,
        diagnostic: *mut Diagnostic,
    ) -> Status;
    pub fn tz_plan_free(plan: *mut Plan);
    pub fn tz_plan_get(plan: *const Plan, out: *mut PlanInfo) -> Status;
    pub fn tz_plan_requests(plan: *const Plan) -> *const Request;
    pub fn tz_plan_segments(plan: *const Plan) -> *const Segment;
    pub fn tz_plan_process(
        plan: *const Plan,
        request: u32,
        received: u64,
        staging: *mut c_void,
        allocations: *const *mut c_void,
        verify: u32,
        next: *mut u64,
        diagnostic: *mut Diagnostic,
    ) -> Status;
}
