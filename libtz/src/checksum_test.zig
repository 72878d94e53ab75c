//! Tests every level that the running CPU supports, with known answers and against the scalar
//! implementation.

const std = @import("std");
const builtin = @import("builtin");
const testing = std.testing;
const checksum = @import("checksum.zig");
const Crc32 = @import("checksum/crc32.zig").Crc32;
const Crc32On = @import("checksum/crc32.zig").Crc32On;
const Polynomial = @import("checksum/crc32.zig").Polynomial;
const cpu = @import("cpu.zig");
const dispatch = @import("dispatch.zig");
const KernelTable = @import("kernel_table.zig").KernelTable;

/// Sizes around every border in the kernels: words, cache lines, the parts of `hw3`, the steps of
/// `fold`, the pieces of a copy.
const crc_sizes = blk: {
    const borders = [_]usize{
        8, 64, 128, 192, 256, 512, 3 * 256, 6 * 256, 16 * 1024, 3 * 8192, 6 * 8192,
    };
    const offsets = [_]isize{ -65, -9, -8, -1, 0, 1, 7, 8, 63, 64, 255, 256 };
    var sizes: [borders.len * offsets.len]usize = undefined;
    for (borders, 0..) |border, row| {
        for (offsets, 0..) |offset, column| {
            sizes[row * offsets.len + column] = @max(0, @as(isize, border) + offset);
        }
    }
    break :blk sizes;
};

const polynomials = [_]Polynomial{ .castagnoli, .zlib };

const Levels = struct {
    next_index: usize = 0,

    fn next(self: *Levels) ?*const KernelTable {
        while (self.next_index < dispatch.levels.len) {
            defer self.next_index += 1;
            if (dispatch.kernelsAt(dispatch.levels[self.next_index])) |table| return table;
        }
        return null;
    }
};

test "the level chosen is the highest supported one, and the baseline is always there" {
    var highest: ?cpu.Level = null;
    var levels: Levels = .{};
    while (levels.next()) |table| {
        if (highest == null) try testing.expectEqual(.baseline, table.level);
        highest = table.level;
    }
    if (@import("options").level_max == null) {
        try testing.expectEqual(highest.?, dispatch.kernels().level);
    }
    const foreign: cpu.Level = if (builtin.cpu.arch == .aarch64) .v2 else .armv8_crypto;
    try testing.expectEqual(null, dispatch.kernelsAt(foreign));
}

test "CRC-32C: the vectors of RFC 3720, B.4" {
    var ascending: [32]u8 = undefined;
    var descending: [32]u8 = undefined;
    for (0..32) |index| {
        ascending[index] = @intCast(index);
        descending[index] = @intCast(31 - index);
    }
    const read_command = [48]u8{
        0x01, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00,
        0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18, 0x28, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    };
    var levels: Levels = .{};
    while (levels.next()) |table| {
        try testing.expectEqual(0x8a91_36aa, table.crc32c(0, &@as([32]u8, @splat(0)), 32));
        try testing.expectEqual(0x62a8_ab43, table.crc32c(0, &@as([32]u8, @splat(0xff)), 32));
        try testing.expectEqual(0x46dd_794e, table.crc32c(0, &ascending, 32));
        try testing.expectEqual(0x113f_db5c, table.crc32c(0, &descending, 32));
        try testing.expectEqual(0xd996_3a56, table.crc32c(0, &read_command, 48));
        try testing.expectEqual(0xe306_9283, table.crc32c(0, "123456789", 9));
        try testing.expectEqual(0, table.crc32c(0, "", 0));
    }
}

test "CRC-32: the check value of the catalogue of CRCs, and others that zlib gives" {
    var levels: Levels = .{};
    while (levels.next()) |table| {
        try testing.expectEqual(0xcbf4_3926, table.crc32(0, "123456789", 9));
        try testing.expectEqual(0x190a_55ad, table.crc32(0, &@as([32]u8, @splat(0)), 32));
        try testing.expectEqual(0xd202_ef8d, table.crc32(0, "\x00", 1));
        try testing.expectEqual(0, table.crc32(0, "", 0));
    }
}

test "CRCs: the scalar implementations match the definition, bit by bit" {
    var bytes: [600]u8 = undefined;
    fillRandom(&bytes, 1);
    inline for (polynomials) |polynomial| for (0..bytes.len) |size| {
        var register: u32 = 0x1234_5678;
        for (bytes[0..size]) |byte| {
            register ^= byte;
            for (0..8) |_| {
                const is_odd = register & 1 != 0;
                register >>= 1;
                if (is_odd) register ^= @backingInt(polynomial);
            }
        }
        const found = Crc32(polynomial).scalar(0x1234_5678, bytes[0..size]);
        try testing.expectEqual(register, found);
    };
}

// The running CPU may have one kind of carry-less multiplication, or none.
test "CRCs: folding any number of lanes matches scalar, with the product by definition" {
    var bytes: [1100]u8 = undefined;
    fillRandom(&bytes, 7);
    inline for (polynomials) |polynomial| inline for (.{ 1, 2, 4 }) |lane_count| {
        const Crc = Crc32On(polynomial, .{
            .has_instruction = false,
            .lane_count = lane_count,
            .is_emulated = true,
        });
        for (0..bytes.len) |size| {
            const expected = Crc.scalar(0x1234_5678, bytes[0..size]);
            try testing.expectEqual(expected, Crc.best(0x1234_5678, bytes[0..size]));
        }
    };
}

test "CRCs: every level matches scalar at every border, whole and in two pieces" {
    // The input ends where the memory ends, so reading one more byte faults.
    const memory = try Guarded.init(64 * 1024);
    defer memory.deinit();
    fillRandom(memory.bytes, 2);

    inline for (polynomials) |polynomial| for (crc_sizes) |size| {
        const bytes = memory.bytes[memory.bytes.len - size ..];
        const expected = ~Crc32(polynomial).scalar(~@as(u32, 0xdead_beef), bytes);
        var levels: Levels = .{};
        while (levels.next()) |table| {
            const kernel = if (polynomial == .zlib) table.crc32 else table.crc32c;
            try testing.expectEqual(expected, kernel(0xdead_beef, bytes.ptr, size));
            for ([_]usize{ 0, 1, 8, 100, size / 2 }) |cut| {
                const first = @min(cut, size);
                const crc = kernel(0xdead_beef, bytes.ptr, first);
                const whole = kernel(crc, bytes.ptr + first, size - first);
                try testing.expectEqual(expected, whole);
            }
        }
    };
}

test "CRC-32C and copy: the same checksum, all bytes copied, none besides" {
    const source = try Guarded.init(64 * 1024);
    defer source.deinit();
    fillRandom(source.bytes, 3);
    const destination = try Guarded.init(64 * 1024 + 128);
    defer destination.deinit();

    for (crc_sizes) |size| {
        const from = source.bytes[source.bytes.len - size ..];
        const expected = ~Crc32(.castagnoli).scalar(~@as(u32, 7), from);
        // Up to the end of memory, and with other alignments of the destination.
        for ([_]usize{ 0, 1, 8, 63, 64 }) |gap| {
            const end = destination.bytes.len - gap;
            const to = destination.bytes[end - size .. end];
            var levels: Levels = .{};
            while (levels.next()) |table| {
                @memset(destination.bytes, 0xa5);
                try testing.expectEqual(expected, table.crc32c_copy(7, to.ptr, from.ptr, size));
                try testing.expectEqualSlices(u8, from, to);
                try testing.expect(std.mem.allEqual(u8, destination.bytes[0 .. end - size], 0xa5));
                try testing.expect(std.mem.allEqual(u8, destination.bytes[end..], 0xa5));
            }
        }
    }
}

test "BLAKE3: the official vectors, at once and in pieces" {
    var input: [102_400]u8 = undefined;
    for (&input, 0..) |*byte, index| byte.* = @intCast(index % 251);

    for (blake3_vectors) |vector| {
        const size, const hex = vector;
        var expected: checksum.Blake3Digest = undefined;
        _ = try std.fmt.hexToBytes(&expected, hex);
        var levels: Levels = .{};
        while (levels.next()) |table| {
            var digest: checksum.Blake3Digest = undefined;
            table.blake3(&input, size, &digest);
            try testing.expectEqual(expected, digest);
            for ([_]usize{ 1, 63, 64, 65, 1023, 1024, 1025, 4096, 16_384, 17_000 }) |piece_size| {
                try testing.expectEqual(expected, inPieces(table, input[0..size], piece_size));
            }
        }
    }
}

fn inPieces(table: *const KernelTable, bytes: []const u8, piece_size: usize) [32]u8 {
    var state: @import("kernel_table.zig").Blake3State = undefined;
    table.blake3_init(&state);
    var rest = bytes;
    while (rest.len > 0) {
        const size = @min(piece_size, rest.len);
        table.blake3_update(&state, rest.ptr, size);
        rest = rest[size..];
    }
    var digest: [32]u8 = undefined;
    table.blake3_final(&state, &digest);
    return digest;
}

test "BLAKE3: every level is std's around every number of chunks that is hashed at once" {
    const chunk_counts = [_]usize{
        1,   2,   3,   4,   5,   6,   7,   8,   9,   11,  12,  13,   15, 16,
        17,  23,  24,  25,  31,  32,  33,  47,  48,  49,  63,  64,   65, 127,
        128, 129, 255, 256, 257, 384, 511, 512, 513, 768, 769, 1024,
    };
    const memory = try Guarded.init(1024 * 1024 + 1);
    defer memory.deinit();
    fillRandom(memory.bytes, 4);

    var standard: std.crypto.hash.Blake3 = .init(.{});
    var expected_size: usize = 0;
    for (chunk_counts) |count| {
        for ([_]usize{ count * 1024 - 1, count * 1024, count * 1024 + 1 }) |size| {
            standard.update(memory.bytes[expected_size..size]);
            expected_size = size;
            var expected: checksum.Blake3Digest = undefined;
            standard.final(&expected);
            var levels: Levels = .{};
            while (levels.next()) |table| {
                var digest: checksum.Blake3Digest = undefined;
                table.blake3(memory.bytes.ptr, size, &digest);
                try testing.expectEqual(expected, digest);
                const piece_size = 1 + (size * 7) % 150_000;
                const bytes = memory.bytes[0..size];
                try testing.expectEqual(expected, inPieces(table, bytes, piece_size));
            }
        }
    }
}

test "BLAKE3: no level reads beyond the input" {
    const memory = try Guarded.init(40 * 1024);
    defer memory.deinit();
    fillRandom(memory.bytes, 5);
    for (1..memory.bytes.len / 512) |half_chunks| {
        const size = half_chunks * 512;
        const bytes = memory.bytes[memory.bytes.len - size ..];
        var levels: Levels = .{};
        while (levels.next()) |table| {
            var digest: checksum.Blake3Digest = undefined;
            table.blake3(bytes.ptr, size, &digest);
            try testing.expectEqual(inPieces(table, bytes, 100), digest);
        }
    }
}

test "what the library imports is what the chosen kernels say" {
    var bytes: [5000]u8 = undefined;
    fillRandom(&bytes, 6);
    const crc = checksum.crc32c(0, &bytes);
    try testing.expectEqual(~Crc32(.castagnoli).scalar(0xffff_ffff, &bytes), crc);
    try testing.expectEqual(crc, checksum.crc32c(checksum.crc32c(0, bytes[0..999]), bytes[999..]));

    const zlib = checksum.crc32(0, &bytes);
    try testing.expectEqual(~Crc32(.zlib).scalar(0xffff_ffff, &bytes), zlib);
    try testing.expectEqual(zlib, checksum.crc32(checksum.crc32(0, bytes[0..999]), bytes[999..]));

    var copy: [5000]u8 = undefined;
    try testing.expectEqual(crc, checksum.crc32cCopy(0, &copy, &bytes));
    try testing.expectEqualSlices(u8, &bytes, &copy);

    var running: checksum.Blake3 = .init();
    running.update(bytes[0..1025]);
    try testing.expectEqual(checksum.blake3(bytes[0..1025]), running.final());
    running.update(bytes[1025..]); // more input may follow a digest
    try testing.expectEqual(checksum.blake3(&bytes), running.final());
}

fn fillRandom(bytes: []u8, seed: u64) void {
    var generator: std.Random.DefaultPrng = .init(seed);
    generator.random().bytes(bytes);
}

/// Memory that ends at an inaccessible guard page (on Linux; elsewhere, plain memory).
const Guarded = struct {
    bytes: []u8,
    pages: []align(std.heap.page_size_min) u8,

    const has_guard = builtin.os.tag == .linux;

    fn init(size: usize) !Guarded {
        const page_size = std.heap.pageSize();
        const usable = std.mem.alignForward(usize, size, page_size);
        const pages = try std.heap.page_allocator.alignedAlloc(
            u8,
            .fromByteUnits(std.heap.page_size_min),
            usable + page_size,
        );
        if (has_guard) {
            const result = std.os.linux.mprotect(pages.ptr + usable, page_size, .{});
            if (std.os.linux.errno(result) != .SUCCESS) return error.Unexpected;
        }
        return .{ .bytes = pages[usable - size .. usable], .pages = pages };
    }

    fn deinit(self: Guarded) void {
        // Not `free`, which would overwrite the memory, including the guard page.
        std.heap.page_allocator.rawFree(
            self.pages,
            .fromByteUnits(std.heap.page_size_min),
            @returnAddress(),
        );
    }
};

/// Sizes and digests of test_vectors.json of the BLAKE3 project; the input is 0, 1, ..., 250,
/// 0, 1 and so on.
const blake3_vectors = [_]struct { usize, []const u8 }{
    .{ 0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262" },
    .{ 1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213" },
    .{ 2, "7b7015bb92cf0b318037702a6cdd81dee41224f734684c2c122cd6359cb1ee63" },
    .{ 3, "e1be4d7a8ab5560aa4199eea339849ba8e293d55ca0a81006726d184519e647f" },
    .{ 4, "f30f5ab28fe047904037f77b6da4fea1e27241c5d132638d8bedce9d40494f32" },
    .{ 5, "b40b44dfd97e7a84a996a91af8b85188c66c126940ba7aad2e7ae6b385402aa2" },
    .{ 6, "06c4e8ffb6872fad96f9aaca5eee1553eb62aed0ad7198cef42e87f6a616c844" },
    .{ 7, "3f8770f387faad08faa9d8414e9f449ac68e6ff0417f673f602a646a891419fe" },
    .{ 8, "2351207d04fc16ade43ccab08600939c7c1fa70a5c0aaca76063d04c3228eaeb" },
    .{ 63, "e9bc37a594daad83be9470df7f7b3798297c3d834ce80ba85d6e207627b7db7b" },
    .{ 64, "4eed7141ea4a5cd4b788606bd23f46e212af9cacebacdc7d1f4c6dc7f2511b98" },
    .{ 65, "de1e5fa0be70df6d2be8fffd0e99ceaa8eb6e8c93a63f2d8d1c30ecb6b263dee" },
    .{ 127, "d81293fda863f008c09e92fc382a81f5a0b4a1251cba1634016a0f86a6bd640d" },
    .{ 128, "f17e570564b26578c33bb7f44643f539624b05df1a76c81f30acd548c44b45ef" },
    .{ 129, "683aaae9f3c5ba37eaaf072aed0f9e30bac0865137bae68b1fde4ca2aebdcb12" },
    .{ 1023, "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11" },
    .{ 1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7" },
    .{ 1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444" },
    .{ 2048, "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a" },
    .{ 2049, "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030" },
    .{ 3072, "b98cb0ff3623be03326b373de6b9095218513e64f1ee2edd2525c7ad1e5cffd2" },
    .{ 3073, "7124b49501012f81cc7f11ca069ec9226cecb8a2c850cfe644e327d22d3e1cd3" },
    .{ 4096, "015094013f57a5277b59d8475c0501042c0b642e531b0a1c8f58d2163229e969" },
    .{ 4097, "9b4052b38f1c5fc8b1f9ff7ac7b27cd242487b3d890d15c96a1c25b8aa0fb995" },
    .{ 5120, "9cadc15fed8b5d854562b26a9536d9707cadeda9b143978f319ab34230535833" },
    .{ 5121, "628bd2cb2004694adaab7bbd778a25df25c47b9d4155a55f8fbd79f2fe154cff" },
    .{ 6144, "3e2e5b74e048f3add6d21faab3f83aa44d3b2278afb83b80b3c35164ebeca205" },
    .{ 6145, "f1323a8631446cc50536a9f705ee5cb619424d46887f3c376c695b70e0f0507f" },
    .{ 7168, "61da957ec2499a95d6b8023e2b0e604ec7f6b50e80a9678b89d2628e99ada77a" },
    .{ 7169, "a003fc7a51754a9b3c7fae0367ab3d782dccf28855a03d435f8cfe74605e7817" },
    .{ 8192, "aae792484c8efe4f19e2ca7d371d8c467ffb10748d8a5a1ae579948f718a2a63" },
    .{ 8193, "bab6c09cb8ce8cf459261398d2e7aef35700bf488116ceb94a36d0f5f1b7bc3b" },
    .{ 16384, "f875d6646de28985646f34ee13be9a576fd515f76b5b0a26bb324735041ddde4" },
    .{ 31744, "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47" },
    .{ 102400, "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085" },
};
