//! Checks a whole tz file, section 13 of the specification: every tensor in the order of the data,
//! from its run to its content digest, then the padding and the flags. The caller reads the ranges
//! that `next` names and passes them to `put`. Memory is needed for one tensor's chunk entries and,
//! if chunks are compressed, for one chunk.

const std = @import("std");
const checksum = @import("checksum.zig");
const chunk_table = @import("chunk_table.zig");
const codecs = @import("codec.zig");
const dtypes = @import("dtype.zig");
const format = @import("format.zig");
const Header = @import("header.zig").Header;
const Range = @import("chunk_entries.zig").Range;
const status = @import("status.zig");
const Diagnostic = status.Diagnostic;

const Allocator = std.mem.Allocator;

/// Ranges of data grow until the next chunk would exceed this.
const range_size_max = 16 << 20;

pub const Verifier = struct {
    gpa: Allocator,
    header: *const Header,
    /// Position in the writer's order.
    position: usize = 0,
    /// The run of the tensor at `position`, once it has been put, and its remaining chunks.
    run: []u8 = &.{},
    chunks: ?chunk_table.Iterator = null,
    content: checksum.Blake3,
    /// End of the checked data.
    end: u64,
    /// A compressed chunk, the same decoded, and the decoder's scratch memory. Allocated for the
    /// first compressed chunk.
    workspace: []u8 = &.{},
    /// Flags of the codecs that were found.
    codec_flags: u64 = 0,
    /// The first byte of padding that is not zero.
    bad_padding: ?u64 = null,

    /// The header must outlive the verifier and be of a tz file.
    pub fn init(gpa: Allocator, header: *const Header) error{Argument}!Verifier {
        if (header.chunk_entries == null) return error.Argument;
        return .{
            .gpa = gpa,
            .header = header,
            .content = .init(),
            .end = header.header_size,
        };
    }

    pub fn deinit(self: *Verifier) void {
        self.gpa.free(self.run);
        self.gpa.free(self.workspace);
    }

    /// The next range to put; its size is 0 if nothing is left.
    pub fn next(self: *Verifier, diagnostic: *Diagnostic) status.DataError!Range {
        const index = self.header.index;
        while (self.position < index.order.len) : (self.position += 1) {
            const tensor = index.order[self.position];
            const entry = index.tensors[tensor];
            if (entry.tie != format.none) continue;
            diagnostic.tensor = tensor;
            if (self.chunks) |chunks| {
                return .{ .offset = self.end, .size = rangeEnd(chunks, self.end) - self.end };
            }
            if (entry.hasChunks()) return self.header.chunk_entries.?.range(index, tensor);
            if (!std.mem.eql(u8, &checksum.blake3(""), entry.content_digest.?)) {
                return diagnostic.fail(error.Content, 46, Diagnostic.none);
            }
        }
        return .{ .offset = self.header.file_size, .size = 0 };
    }

    /// Up to the end of the chunks that fit a range; at least one.
    fn rangeEnd(remaining: chunk_table.Iterator, begin: u64) u64 {
        var chunks = remaining;
        var end = begin;
        while (chunks.next()) |chunk| {
            const chunk_end = chunk.offset + chunk.stored_length;
            if (end != begin and chunk_end - begin > range_size_max) break;
            end = chunk_end;
        }
        return end;
    }

    /// Takes the bytes of the range that `next` named.
    pub fn put(self: *Verifier, bytes: []const u8, diagnostic: *Diagnostic) status.Error!void {
        const range = try self.next(diagnostic);
        if (range.size == 0 or bytes.len != range.size) return error.Argument;
        const index = self.header.index;
        const tensor = index.order[self.position];
        diagnostic.tensor = tensor;
        if (self.chunks == null) {
            const chunk_entries = &self.header.chunk_entries.?;
            self.gpa.free(self.run);
            self.run = &.{};
            self.run = try self.gpa.dupe(u8, bytes); // what is checked is what is used after it
            try chunk_entries.check(index, tensor, self.run, range.offset, diagnostic);
            const entry = index.tensors[tensor];
            self.chunks = .init(entry, self.run, chunk_entries.record_size, index.chunk_size);
            self.content = .init();
            return;
        }
        const chunks = &self.chunks.?;
        const stop = range.offset + range.size;
        while (self.end != stop) {
            const chunk = chunks.next().?;
            const padding: usize = @intCast(self.end - range.offset);
            const begin: usize = @intCast(chunk.offset - range.offset);
            self.checkPadding(bytes[padding..begin]);
            const stored = bytes[begin..][0..chunk.stored_length];
            diagnostic.chunk = chunk.decoded_begin / index.chunk_size;
            try self.checkChunk(chunk, index.tensors[tensor].dtype, stored, diagnostic);
            self.end = chunk.offset + chunk.stored_length;
        }
        if (chunks.decoded_begin != chunks.decoded_size) return;
        diagnostic.chunk = Diagnostic.none;
        if (!std.mem.eql(u8, &self.content.final(), index.tensors[tensor].content_digest.?)) {
            return diagnostic.fail(error.Content, 46, index.tensors[tensor].data_offset);
        }
        self.chunks = null;
        self.position += 1;
    }

    fn checkPadding(self: *Verifier, padding: []const u8) void {
        const bad = std.mem.indexOfNone(u8, padding, "\x00") orelse return;
        if (self.bad_padding == null) self.bad_padding = self.end + bad;
    }

    fn checkChunk(
        self: *Verifier,
        chunk: chunk_table.Chunk,
        dtype: u16,
        given: []const u8,
        diagnostic: *Diagnostic,
    ) status.Error!void {
        const is_raw = chunk.codec == codecs.raw;
        // A decoder's input must be what was checked, so it is copied first.
        const stored = if (is_raw) given else try self.copy(given);
        if (checksum.crc32c(0, stored) != chunk.crc) {
            return diagnostic.fail(error.Checksum, 43, chunk.offset);
        }
        if (!std.mem.eql(u8, &checksum.blake3(stored), chunk.digest.?)) {
            return diagnostic.fail(error.Checksum, 85, chunk.offset);
        }
        if (is_raw) return self.content.update(stored);
        const codec = codecs.info(chunk.codec).?; // checked with the run
        self.codec_flags |= codec.flag;
        if (dtypes.byCode(dtype) == null) return diagnostic.fail(error.Feature, 86, chunk.offset);
        const chunk_size: usize = @intCast(self.header.index.chunk_size);
        const decoded = self.workspace[chunk_size..][0..chunk.decoded_length];
        const scratch = self.workspace[2 * chunk_size ..];
        codec.decode(dtype, stored, decoded, scratch) catch {
            return diagnostic.fail(error.Codec, 44, chunk.offset);
        };
        self.content.update(decoded);
    }

    fn copy(self: *Verifier, stored: []const u8) error{OutOfMemory}![]const u8 {
        if (self.workspace.len == 0) {
            const chunk_size: usize = @intCast(self.header.index.chunk_size);
            const size = 2 * chunk_size + codecs.decode_scratch_size;
            self.workspace = try self.gpa.alloc(u8, size);
        }
        @memcpy(self.workspace[0..stored.len], stored);
        return self.workspace[0..stored.len];
    }

    /// The checks that need the whole file; error.Sequence before all of it has been put.
    pub fn finish(self: *Verifier, diagnostic: *Diagnostic) status.Error!void {
        if ((try self.next(diagnostic)).size != 0) return error.Sequence;
        diagnostic.tensor = Diagnostic.none;
        if (self.bad_padding) |offset| return diagnostic.fail(error.Reserved, 45, offset);
        const announced = self.header.incompatible_flags & codecs.flags;
        if (announced & ~self.codec_flags != 0) return diagnostic.fail(error.Feature, 47, 16);
    }
};
