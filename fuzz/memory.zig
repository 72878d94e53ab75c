//! Memory that detects misuse: a counting allocator with a limit, and buffers that end at a guard
//! page. Violations panic, since they are bugs of the library.

const std = @import("std");
const builtin = @import("builtin");
const options = @import("options");

const Allocator = std.mem.Allocator;
const Alignment = std.mem.Alignment;

/// With AddressSanitizer, its own allocator guards every block.
pub const backing: Allocator = if (options.sanitize)
    std.heap.c_allocator
else
    std.heap.smp_allocator;

/// Refuses to have more than `limit` bytes allocated at a time. `deinit` checks for leaks.
pub const Limited = struct {
    limit: usize,
    live: usize = 0,
    peak: usize = 0,
    refused: bool = false,

    pub fn init(limit: usize) Limited {
        return .{ .limit = limit };
    }

    pub fn deinit(self: *Limited) void {
        if (self.live != 0) std.debug.panic("{d} bytes leaked", .{self.live});
        if (self.refused) std.debug.panic("more than {d} bytes were requested", .{self.limit});
    }

    pub fn allocator(self: *Limited) Allocator {
        return .{ .ptr = self, .vtable = &.{
            .alloc = alloc,
            .resize = resize,
            .remap = remap,
            .free = free,
        } };
    }

    fn alloc(context: *anyopaque, size: usize, alignment: Alignment, return_address: usize) ?[*]u8 {
        const self: *Limited = @ptrCast(@alignCast(context));
        if (!self.take(size)) return null;
        return backing.rawAlloc(size, alignment, return_address) orelse @panic("out of memory");
    }

    fn take(self: *Limited, size: usize) bool {
        if (size > self.limit - self.live) {
            self.refused = true;
            return false;
        }
        self.live += size;
        self.peak = @max(self.peak, self.live);
        return true;
    }

    // Blocks never grow in place, so that every overrun is detected and every growth is a move.
    fn resize(
        context: *anyopaque,
        memory: []u8,
        alignment: Alignment,
        size: usize,
        return_address: usize,
    ) bool {
        if (size > memory.len) return false;
        if (!backing.rawResize(memory, alignment, size, return_address)) return false;
        const self: *Limited = @ptrCast(@alignCast(context));
        self.live -= memory.len - size;
        return true;
    }

    fn remap(_: *anyopaque, _: []u8, _: Alignment, _: usize, _: usize) ?[*]u8 {
        return null;
    }

    fn free(context: *anyopaque, memory: []u8, alignment: Alignment, return_address: usize) void {
        const self: *Limited = @ptrCast(@alignCast(context));
        self.live -= memory.len;
        backing.rawFree(memory, alignment, return_address);
    }
};

/// The alignment of callers' memory.
const buffer_alignment = 64;
const band = 0xA5;

/// A buffer of exactly the requested size, aligned to 64. Writes right before or behind it are
/// detected when it is freed; accesses further behind it fault immediately.
pub const Buffer = struct {
    bytes: []align(buffer_alignment) u8,
    pages: if (options.sanitize) void else Pages,

    pub fn init(size: usize) Buffer {
        if (options.sanitize) {
            const bytes = backing.alignedAlloc(
                u8,
                .fromByteUnits(buffer_alignment),
                size,
            ) catch @panic("out of memory");
            return .{ .bytes = bytes, .pages = {} };
        }
        const pages: Pages = .get(
            buffer_alignment + std.mem.alignForward(usize, size, buffer_alignment),
        );
        const begin = pages.usable.len - std.mem.alignForward(usize, size, buffer_alignment);
        @memset(pages.usable[begin - buffer_alignment .. begin], band);
        @memset(pages.usable[begin + size ..], band);
        return .{ .bytes = @alignCast(pages.usable[begin..][0..size]), .pages = pages };
    }

    pub fn copyOf(source: []const u8) Buffer {
        const self: Buffer = .init(source.len);
        @memcpy(self.bytes, source);
        return self;
    }

    pub fn deinit(self: Buffer) void {
        if (options.sanitize) return backing.free(self.bytes);
        const usable = self.pages.usable;
        const begin = @intFromPtr(self.bytes.ptr) - @intFromPtr(usable.ptr);
        const before = usable[begin - buffer_alignment .. begin];
        const behind = usable[begin + self.bytes.len ..];
        if (!std.mem.allEqual(u8, before, band)) @panic("bytes before a buffer were written");
        if (!std.mem.allEqual(u8, behind, band)) @panic("bytes behind a buffer were written");
        self.pages.put();
    }
};

/// Pages followed by a guard page. Kept for reuse: mapping costs more than most executions.
const Pages = struct {
    usable: []align(std.heap.page_size_min) u8,

    const kept_max = 64;
    var kept: [kept_max][]align(std.heap.page_size_min) u8 = undefined;
    var kept_count: usize = 0;

    fn get(size: usize) Pages {
        for (kept[0..kept_count], 0..) |pages, index| {
            if (pages.len < size) continue;
            kept_count -= 1;
            kept[index] = kept[kept_count];
            return .{ .usable = pages };
        }
        const page = std.heap.pageSize();
        // A power of two, so that kept pages fit most sizes.
        const usable_size = @max(page, std.math.ceilPowerOfTwoAssert(usize, size));
        const mapped = std.posix.mmap(
            null,
            usable_size + page,
            .{ .READ = true, .WRITE = true },
            .{ .TYPE = .PRIVATE, .ANONYMOUS = true },
            -1,
            0,
        ) catch @panic("out of memory");
        const fence = mapped[usable_size..];
        if (std.os.linux.mprotect(fence.ptr, fence.len, .{}) != 0) @panic("mprotect failed");
        return .{ .usable = mapped[0..usable_size] };
    }

    fn put(self: Pages) void {
        if (kept_count < kept_max) {
            kept[kept_count] = self.usable;
            kept_count += 1;
        } else {
            const page = std.heap.pageSize();
            std.posix.munmap(self.usable.ptr[0 .. self.usable.len + page]);
        }
    }
};
