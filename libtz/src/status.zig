//! Status codes of the C interface, the library's errors, and where an error was found.
//! The numbers are part of the ABI and never change; include/tz.h documents them.

const std = @import("std");

pub const Status = enum(i32) {
    ok = 0,
    need_more = 1,

    argument = 10,
    memory = 11,
    buffer_too_small = 12,
    not_found = 13,
    entries_missing = 14,
    sequence = 15,

    not_tz = 20,
    truncated = 21,
    trailing = 22,
    version = 23,
    feature = 24,
    limit = 25,
    checksum = 26,
    reserved = 27,
    directory = 28,
    layout = 29,
    name = 30,
    shape = 31,
    order = 32,
    tie = 33,
    chunk = 34,
    codec = 35,
    structure = 36,
    metadata = 37,
    digest = 38,
    content = 39,

    json = 50,
    foreign = 51,
};

/// Mistakes of the caller, or failures of the machine.
pub const CallError = error{
    Argument,
    OutOfMemory,
    BufferTooSmall,
    NotFound,
    EntriesMissing,
    Sequence,
};

/// What is wrong with the bytes: the error classes of the specification, section 13.
pub const DataError = error{
    NotTz,
    Truncated,
    Trailing,
    Version,
    Feature,
    Limit,
    Checksum,
    Reserved,
    Directory,
    Layout,
    Name,
    Shape,
    Order,
    Tie,
    Chunk,
    Codec,
    Structure,
    Metadata,
    Digest,
    Content,
    Json,
    Foreign,
};

pub const Error = CallError || DataError;

pub fn fromError(err: Error) Status {
    return switch (err) {
        error.Argument => .argument,
        error.OutOfMemory => .memory,
        error.BufferTooSmall => .buffer_too_small,
        error.NotFound => .not_found,
        error.EntriesMissing => .entries_missing,
        error.Sequence => .sequence,
        error.NotTz => .not_tz,
        error.Truncated => .truncated,
        error.Trailing => .trailing,
        error.Version => .version,
        error.Feature => .feature,
        error.Limit => .limit,
        error.Checksum => .checksum,
        error.Reserved => .reserved,
        error.Directory => .directory,
        error.Layout => .layout,
        error.Name => .name,
        error.Shape => .shape,
        error.Order => .order,
        error.Tie => .tie,
        error.Chunk => .chunk,
        error.Codec => .codec,
        error.Structure => .structure,
        error.Metadata => .metadata,
        error.Digest => .digest,
        error.Content => .content,
        error.Json => .json,
        error.Foreign => .foreign,
    };
}

/// The name of a status. For data errors, it is the error class of the specification.
pub fn name(code: i32) [*:0]const u8 {
    const status = std.enums.fromInt(Status, code) orelse return "unknown";
    return switch (status) {
        .not_tz => "not-tz",
        inline else => |known| @tagName(known),
    };
}

/// A sentence that explains a status.
pub fn text(code: i32) [*:0]const u8 {
    const status = std.enums.fromInt(Status, code) orelse return "unknown status";
    return switch (status) {
        .ok => "no error",
        .need_more => "more bytes are needed",
        .argument => "a function was called with an invalid argument",
        .memory => "not enough memory",
        .buffer_too_small => "a buffer is too small",
        .not_found => "there is no tensor of this name",
        .entries_missing => "the chunk entries of a tensor have not been read",
        .sequence => "functions were called in the wrong order",
        .not_tz => "this is not a tz, safetensors or tensors file",
        .truncated => "the file ends too early",
        .trailing => "the file has bytes after its end",
        .version => "the file needs a newer version of libtz",
        .feature => "the file uses a feature that this version of libtz does not support",
        .limit => "a limit of the format is exceeded",
        .checksum => "these are not the bytes that were written; download the file again",
        .reserved => "bytes that must be zero are not",
        .directory => "the section directory is malformed",
        .layout => "a size, offset or count contradicts the content",
        .name => "a tensor's name is malformed or out of order",
        .shape => "a tensor's size contradicts its shape and dtype",
        .order => "the order of the tensors is malformed",
        .tie => "a tie is malformed",
        .chunk => "a chunk entry is malformed",
        .codec => "a chunk cannot be decoded",
        .structure => "the nested structure is malformed",
        .metadata => "the metadata is malformed",
        .digest => "this is not the file that the digest pins",
        .content => "the decoded bytes differ from the ones that were saved",
        .json => "the header is not the JSON that the format requires",
        .foreign => "the header contradicts itself or the file",
    };
}

/// Where an error was found. Passed down as a pointer that is never null, and filled in by the
/// function that returns the error.
pub const Diagnostic = struct {
    offset: u64 = none,
    tensor: u64 = none,
    chunk: u64 = none,
    rule: u32 = 0,
    name_size: u32 = 0,
    reason: ?[*:0]const u8 = null,
    name: [name_size_max]u8 = @splat(0),

    pub const none = std.math.maxInt(u64);
    pub const name_size_max = 256;
    const cut_mark = "…";

    /// Notes the broken rule and passes the error on: `return diagnostic.fail(error.Name, 23, at)`.
    pub fn fail(self: *Diagnostic, err: DataError, rule: u32, offset: u64) DataError {
        self.rule = rule;
        self.offset = offset;
        return err;
    }

    /// The same for foreign formats, whose rules have no numbers. In a message, the reason follows
    /// the tensor's name if there is one: "its dtype is unknown".
    pub fn refuse(self: *Diagnostic, err: DataError, offset: u64, reason: [*:0]const u8) DataError {
        self.offset = offset;
        return self.because(err, reason);
    }

    /// For callees that do not know the offset; the caller fills it in.
    pub fn because(self: *Diagnostic, err: DataError, reason: [*:0]const u8) DataError {
        self.reason = reason;
        return err;
    }

    /// Notes the name of a tensor of a file that is refused, so that it has no index.
    pub fn setName(self: *Diagnostic, given: []const u8) void {
        var size = given.len;
        if (size > name_size_max) {
            size = name_size_max - cut_mark.len;
            while (size > 0 and given[size] & 0xC0 == 0x80) size -= 1; // not within a character
            @memcpy(self.name[size..][0..cut_mark.len], cut_mark);
        }
        @memcpy(self.name[0..size], given[0..size]);
        self.name_size = @intCast(if (size < given.len) size + cut_mark.len else size);
    }
};

test "names are cut between characters" {
    const limit = Diagnostic.name_size_max;
    const ascii: [limit + 1]u8 = @splat('n');
    const wide: [2 * limit]u8 = @bitCast(@as([limit][2]u8, @splat("ä".*)));
    for ([_]struct { []const u8, usize, []const u8 }{
        .{ "", 0, "" },
        .{ ascii[0..limit], limit, "" },
        .{ &ascii, limit - 3, "…" },
        .{ &wide, limit - 4, "…" },
        .{ &@as([limit + 1]u8, @splat(0x80)), 0, "…" }, // not UTF-8 at all
    }) |case| {
        var diagnostic: Diagnostic = .{};
        diagnostic.setName(case[0]);
        const noted = diagnostic.name[0..diagnostic.name_size];
        try std.testing.expectEqualStrings(case[0][0..case[1]], noted[0..case[1]]);
        try std.testing.expectEqualStrings(case[2], noted[case[1]..]);
    }
}
