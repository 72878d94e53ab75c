//! Exports: record headers of .tensors files.

const c = @import("types.zig");
const Header = @import("../header.zig").Header;
const Range = @import("../chunk_entries.zig").Range;
const records = @import("../foreign/coreweave_record.zig");
const status = @import("../status.zig");
const Diagnostic = status.Diagnostic;
const Status = status.Status;
const support = @import("support.zig");
const Report = support.Report;

export fn tz_header_record(header: ?*const Header, tensor: u32, out: ?*Range) Status {
    const self = header orelse return .argument;
    const target = out orelse return .argument;
    if (tensor >= self.index.records.len) return .argument;
    const record = self.index.records[tensor];
    target.* = .{ .offset = record.offset, .size = record.size };
    return .ok;
}

export fn tz_record_parse(
    header: ?*const Header,
    tensor: u32,
    record: ?[*]const u8,
    size: usize,
    hashed: ?[*]u8,
    out: ?*c.Record,
    diagnostic: ?*c.Diagnostic,
) Status {
    var report = Report.init(diagnostic) catch return .argument;
    defer report.deliver();
    return support.result(parse(header, tensor, record, size, hashed, out, &report.diagnostic));
}

fn parse(
    header: ?*const Header,
    tensor: u32,
    record: ?[*]const u8,
    size: usize,
    hashed: ?[*]u8,
    out: ?*c.Record,
    diagnostic: *Diagnostic,
) status.Error!void {
    const self = header orelse return error.Argument;
    const target = out orelse return error.Argument;
    if (tensor >= self.index.records.len) return error.Argument;
    const known = self.index.records[tensor];
    if (size != known.size) return error.Argument;
    const parsed = records.parse(
        self.index.tensors[tensor],
        known,
        self.is_encrypted,
        try support.slice(u8, record, size),
        try support.sliceMutable(u8, hashed, size),
        diagnostic,
    ) catch |err| {
        diagnostic.tensor = tensor;
        return err;
    };
    const cipher = parsed.crypt.cipher;
    const derivation = parsed.crypt.derivation;
    try support.give(target, .{
        .module = parsed.module,
        .flags = .{ .crc32 = parsed.crc32 != null },
        .crc32 = parsed.crc32 orelse 0,
        .sha256 = parsed.sha256,
        .hashed_size = parsed.hashed_size,
        .cipher_chunk_size = if (cipher) |found| found.chunk_size else 0,
        .cipher_chunk_count = if (cipher) |found| found.tags.len / records.tag_size else 0,
        .nonce = if (cipher) |found| found.nonce else null,
        .tags = if (cipher) |found| found.tags.ptr else null,
        .opslimit = if (derivation) |found| found.opslimit else 0,
        .memlimit = if (derivation) |found| found.memlimit else 0,
        .salt = if (derivation) |found| found.salt else null,
    });
}
