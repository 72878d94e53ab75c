//! The record header before each tensor's data in a .tensors file. Except for the hashes and the
//! parameters of decryption, it must repeat the index.
//!
//! Size | Field       | Rule
//! 8    | header_size | of the whole record header
//! 2    | module      | number of the tensor's module; not used
//! 1    | role        | parameter, buffer, state dict
//! 2, n | name        |
//! 1, n | dtype       |
//! 1, n | dimensions  | their number, then each in 4 or 8 bytes as in the index
//! 2    | hashes_size | of the two fields below
//! 1    | hash_count  |
//! n    | hashes      | each: kind (0 CRC-32, 1 SHA-256), size (4, 32), digest
//! 8, n | crypt       | in encrypted files: size, then its chunks; see `Crypt`
//! n    | padding     | zero; other writers align the data with it
//! 8    | data_size   |
//!
//! Hashes cover this header, with all digests zero and without the crypt block, followed by the
//! decrypted data.

const std = @import("std");
const bytes = @import("../bytes.zig");
const Record = @import("../index.zig").Record;
const status = @import("../status.zig");
const Tensor = @import("../index.zig").Tensor;

/// The tags of 8 TiB in cipher chunks of 2 MiB.
pub const size_max = 64 << 20;

pub const tag_size = 16;

const sha256_size = 32;

/// The minimum size, without hashes, padding and the contents of the crypt block.
pub fn sizeMin(name_size: usize, type_size: usize, is_encrypted: bool) u64 {
    const crypt_size_min: u64 = if (is_encrypted) 8 + 2 else 0;
    return 8 + 2 + 1 + 2 + name_size + type_size + 2 + 1 + crypt_size_min + 8;
}

pub const Parsed = struct {
    module: u16,
    crc32: ?u32 = null,
    sha256: ?*const [sha256_size]u8 = null,
    crypt: Crypt = .{},
    /// The bytes that the hashes cover before the data.
    hashed_size: usize = 0,
};

/// Chunks of the crypt block: a number of them (2 bytes), then each: its size (8 bytes, without
/// these), kind (2 bytes), and by kind
///
/// 1    key from a passphrase: method (2, here 1), opslimit (8), memlimit (8), algorithm (4, here
///      2: Argon2id), size of the salt (2), salt
/// 2    data in several boxes: plain size of each but the last (8), nonce of the first (24; the
///      next has that plus one, little-endian), their number (8), tag of each (16)
/// 3    data in one box: nonce (24), tag (16)
///
/// A box is NaCl's secretbox (XSalsa20-Poly1305) without its tag.
pub const Crypt = struct {
    derivation: ?Derivation = null,
    cipher: ?Cipher = null,

    pub const Derivation = struct { opslimit: u64, memlimit: u64, salt: *const [16]u8 };
    pub const Cipher = struct { chunk_size: u64, nonce: *const [24]u8, tags: []const u8 };
};

/// Parses `raw`, the whole record header of `tensor`, and compares it with the index. `hashed` is
/// of the size of `raw` and gets the bytes that the hashes cover before the data. The result points
/// into `raw`.
pub fn parse(
    tensor: Tensor,
    record: Record,
    is_encrypted: bool,
    raw: []const u8,
    hashed: []u8,
    diagnostic: *status.Diagnostic,
) status.DataError!Parsed {
    std.debug.assert(raw.len == record.size and hashed.len == raw.len);
    var parser: Parser = .{ .raw = raw };
    return parser.parse(tensor, record, is_encrypted, hashed) catch |err| {
        return diagnostic.refuse(err, record.offset + parser.at, parser.reason);
    };
}

const Parser = struct {
    raw: []const u8,
    at: usize = 0,
    /// After an error, what is wrong.
    reason: [*:0]const u8 = "",

    fn fail(
        self: *Parser,
        err: status.DataError,
        at: usize,
        reason: [*:0]const u8,
    ) status.DataError {
        self.at = at;
        self.reason = reason;
        return err;
    }

    fn refuse(self: *Parser, at: usize, reason: [*:0]const u8) status.DataError {
        return self.fail(error.Foreign, at, reason);
    }

    fn take(self: *Parser, size: u64) status.DataError![]const u8 {
        if (size > self.raw.len - self.at) {
            return self.refuse(self.at, "its record header ends too early");
        }
        defer self.at += @intCast(size);
        return self.raw[self.at..][0..@intCast(size)];
    }

    fn integer(self: *Parser, comptime T: type) status.DataError!T {
        return bytes.get(T, try self.take(@sizeOf(T)), 0);
    }

    /// Requires these bytes next.
    fn expect(self: *Parser, expected: []const u8, reason: [*:0]const u8) status.DataError!void {
        const begin = self.at;
        if (std.mem.eql(u8, try self.take(expected.len), expected)) return;
        return self.refuse(begin, reason);
    }

    fn parse(
        self: *Parser,
        tensor: Tensor,
        record: Record,
        is_encrypted: bool,
        hashed: []u8,
    ) status.DataError!Parsed {
        if (try self.integer(u64) != record.size) return self.differs(0, "size");
        var parsed: Parsed = .{ .module = try self.integer(u16) };
        if (try self.integer(u8) != @backingInt(record.role)) return self.differs(10, "role");
        if (try self.integer(u16) != record.name.len) return self.differs(11, "name");
        try self.expect(record.name, differing("name"));
        try self.expect(record.type_bytes, differing("dtype or shape"));
        @memcpy(hashed[0..self.at], self.raw[0..self.at]);
        try self.parseHashes(&parsed, hashed);
        var hashed_size = self.at;
        if (is_encrypted) parsed.crypt = try self.parseCrypt(tensor.stored_size);
        const rest = self.raw[self.at..];
        if (rest.len < 8) {
            return self.refuse(self.at, "its record header ends too early");
        }
        if (!bytes.allZero(rest[0 .. rest.len - 8])) {
            return self.refuse(self.at, "the padding of its record header is not zero");
        }
        if (bytes.get(u64, rest, rest.len - 8) != tensor.stored_size) {
            return self.differs(self.raw.len - 8, "size of the data");
        }
        @memcpy(hashed[hashed_size..][0..rest.len], rest);
        hashed_size += rest.len;
        parsed.hashed_size = hashed_size;
        return parsed;
    }

    fn differs(self: *Parser, at: usize, comptime what: []const u8) status.DataError {
        return self.refuse(at, differing(what));
    }

    fn differing(comptime what: []const u8) [*:0]const u8 {
        return "its record header and the index differ in the " ++ what;
    }

    /// Copies the bytes it reads to `hashed`, with digests of zero.
    fn parseHashes(self: *Parser, parsed: *Parsed, hashed: []u8) status.DataError!void {
        const begin = self.at;
        const size = try self.integer(u16);
        const end = self.at + size;
        if (end > self.raw.len or size == 0) {
            return self.refuse(begin, "its block of hashes has an invalid size");
        }
        const count = try self.integer(u8);
        @memcpy(hashed[begin..self.at], self.raw[begin..self.at]);
        for (0..count) |_| {
            const entry = self.at;
            const kind = try self.integer(u8);
            const digest = try self.take(try self.integer(u8));
            if (self.at > end) {
                return self.refuse(entry, "a hash extends beyond the block of hashes");
            }
            @memcpy(hashed[entry..][0..2], self.raw[entry..][0..2]);
            @memset(hashed[entry + 2 .. self.at], 0);
            switch (kind) {
                0 => {
                    if (parsed.crc32 != null or digest.len != 4) {
                        const reason = "it has two CRC-32s, or one without 4 bytes";
                        return self.refuse(entry, reason);
                    }
                    parsed.crc32 = bytes.get(u32, digest, 0);
                },
                1 => {
                    if (parsed.sha256 != null or digest.len != 32) {
                        const reason = "it has two SHA-256s, or one without 32 bytes";
                        return self.refuse(entry, reason);
                    }
                    parsed.sha256 = digest[0..sha256_size];
                },
                else => return self.fail(error.Feature, entry, "it has a hash of an unknown type"),
            }
        }
        if (self.at != end) {
            return self.refuse(self.at, "there are bytes after the last hash in its block");
        }
    }

    fn parseCrypt(self: *Parser, data_size: u64) status.DataError!Crypt {
        const size = try self.integer(u64);
        if (size > self.raw.len - self.at) {
            return self.refuse(self.at, "its encryption block extends beyond the record header");
        }
        const end = self.at + @as(usize, @intCast(size));
        const count = try self.integer(u16);
        var crypt: Crypt = .{};
        for (0..count) |_| {
            const begin = self.at;
            const chunk_size = try self.integer(u64);
            if (chunk_size > self.raw.len - self.at) return self.refuse(begin, bad_chunk);
            const chunk_end = self.at + @as(usize, @intCast(chunk_size));
            switch (try self.integer(u16)) {
                1 => {
                    if (crypt.derivation != null) {
                        return self.refuse(begin, "its key is derived twice");
                    }
                    crypt.derivation = try self.parseDerivation();
                },
                2 => {
                    if (crypt.cipher != null) return self.refuse(begin, two_ciphers);
                    crypt.cipher = try self.parseBoxes(data_size);
                },
                3 => {
                    if (crypt.cipher != null) return self.refuse(begin, two_ciphers);
                    const nonce = (try self.take(24))[0..24];
                    const tags = try self.take(tag_size);
                    crypt.cipher = .{ .chunk_size = data_size, .nonce = nonce, .tags = tags };
                },
                else => {
                    const reason = "its encryption block has a part of an unknown type";
                    return self.fail(error.Feature, begin, reason);
                },
            }
            if (self.at != chunk_end) return self.refuse(begin, bad_chunk);
        }
        if (self.at != end) {
            return self.refuse(self.at, "there are bytes after the parts of its encryption block");
        }
        // Otherwise, plain data could be inserted into the file without the key.
        if (data_size != 0 and crypt.cipher == null) {
            return self.refuse(self.at, "its data are not encrypted, although the file is");
        }
        return crypt;
    }

    const bad_chunk = "a part of its encryption block has the wrong size";
    const two_ciphers = "its data are encrypted twice";

    fn parseDerivation(self: *Parser) status.DataError!Crypt.Derivation {
        if (try self.integer(u16) != 1) return self.fail(error.Feature, self.at, bad_derivation);
        const opslimit = try self.integer(u64);
        const memlimit = try self.integer(u64);
        if (try self.integer(u32) != 2) return self.fail(error.Feature, self.at, bad_derivation);
        if (try self.integer(u16) != 16) {
            return self.refuse(self.at, "the salt of its key does not have 16 bytes");
        }
        return .{
            .opslimit = opslimit,
            .memlimit = memlimit,
            .salt = (try self.take(16))[0..16],
        };
    }

    const bad_derivation = "its key is derived in an unknown way";

    fn parseBoxes(self: *Parser, data_size: u64) status.DataError!Crypt.Cipher {
        const chunk_size = try self.integer(u64);
        // As the format's own library requires.
        if (chunk_size < 1024 or chunk_size % 64 != 0) {
            const reason = "the size of its encrypted pieces is not a multiple of 64, from 1024 on";
            return self.refuse(self.at, reason);
        }
        const nonce = (try self.take(24))[0..24];
        const count = try self.integer(u64);
        if (count != bytes.divCeil(data_size, chunk_size)) {
            const reason = "the number of its encrypted pieces contradicts its size";
            return self.refuse(self.at, reason);
        }
        const size = bytes.mul(count, tag_size) orelse std.math.maxInt(u64); // more than there is
        return .{ .chunk_size = chunk_size, .nonce = nonce, .tags = try self.take(size) };
    }
};
