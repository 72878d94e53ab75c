/*
 * tz.h - the C interface of libtz
 *
 * libtz reads and writes tz files (spec/tz-v1.md), which hold model weights. It also reads the
 * headers of .safetensors files and of CoreWeave's .tensors files.
 *
 * The library does no I/O. You give it bytes; it tells you which bytes it needs next, and it
 * checks, decodes and encodes them. It has no threads, no global state and no locale, reads no
 * environment, writes no log, and does not need the C library. All input bytes give a result or a
 * status: the library never aborts on them, and never touches memory outside the given buffers.
 *
 * bindings/c/tz_show.c is a complete program; bindings/rust and bindings/go do the same.
 *
 * Reading a file:
 *
 *   1. Read the first megabyte.                    tz_header_open() -> a header, or how much more
 *   2. Find your tensors.                          tz_header_tensor(), tz_header_find()
 *   3. Fetch their chunk entries.                  tz_header_entry_ranges(),
 *                                                  tz_header_put_entries()
 *   4. Plan.                                       tz_plan_new() -> requests, allocations
 *   5. For each request, on any thread: receive its bytes into its segments; tz_plan_process()
 *      then checks and decodes them. After the last one, your allocations hold the tensors.
 *
 * Example. Steps 1 and 2, for a file in memory:
 *
 *   uint64_t size = file_size < 1 << 20 ? file_size : 1 << 20;
 *   tz_header *header;
 *   tz_diagnostic where = {.struct_size = sizeof where};
 *   tz_status status;
 *   do
 *       status = tz_header_open(file, size, file_size, NULL, &header, &size, &where);
 *   while (status == TZ_NEED_MORE);
 *   if (status != TZ_OK)
 *       return fprintf(stderr, "byte %llu: %s\n", (unsigned long long)where.offset,
 *                      where.reason ? where.reason : tz_status_text(status));
 *   uint32_t index;
 *   if (tz_header_find(header, "lm_head.weight", 14, &index) == TZ_OK) {
 *       tz_tensor tensor = {.struct_size = sizeof tensor};
 *       tz_header_tensor(header, index, &tensor);
 *       printf("%llu bytes\n", (unsigned long long)tensor.decoded_size);
 *   }
 *   tz_header_free(header);
 *
 * Writing a file: tz_builder_new(). For each tensor: tz_chunks_encode(), tz_builder_put_chunks(),
 * write the bytes at the offset it returns, tz_builder_put_content(). At the end,
 * tz_builder_finish() makes the header, which goes to offset 0.
 *
 * Checking a whole file, padding and content digests included: tz_verifier_new().
 *
 * Errors. A function that can fail returns a tz_status: TZ_OK (0), TZ_NEED_MORE, or an error.
 *   Errors 10 to 19 mean that the caller or the machine failed; from 20 on, the data is invalid.
 *   Later versions may add statuses: treat an unknown number as an error of its range.
 *   Outputs are written only with TZ_OK, unless a function says otherwise. After an error an object
 *   is as it was before the call, unless the function says otherwise.
 *   NULL for an object or an output is TZ_E_ARGUMENT, and so is NULL for bytes whose size is not 0.
 *   The few functions that return no status (accessors, checksums) do not check their pointers.
 *   A `tz_diagnostic *` may be NULL; otherwise every call fills it in, with or without an error.
 * Ownership. Functions named *_new or *_open make an object; *_free frees it, and accepts NULL.
 *   Arguments are copied, or used only during the call. A pointer that the library returns is
 *   borrowed: it is valid as long as the object it came from, and the data it points to never
 *   changes. Text is UTF-8 with a size and no terminating zero; only a `const char *` without a
 *   size is zero-terminated.
 * Memory comes from the system, not from malloc(), in proportion to the bytes that you passed in:
 *   sizes that a file merely claims cost nothing. A header takes up to about 20 times its open_size
 *   (for a nested .tensors file 50 times, and 20 MB), a plan 100 to 200 bytes per chunk. A failed
 *   allocation is TZ_E_MEMORY; the call may be repeated.
 *   Headers and chunk entries are copied before they are checked, so your buffer may be a mapping
 *   that another process writes to. The memory given to tz_plan_process() must not change during
 *   the call.
 * Threads. Different objects are independent. Functions that take a const object may run at the
 *   same time on the same object; the others need exclusive access, with one exception that
 *   tz_header_put_entries() describes. *_free always needs exclusive access.
 * Growth. A struct that begins with struct_size may get new fields, at its end, in later versions.
 *   Set struct_size to the sizeof of the struct, and unused fields to 0, which keeps the meaning of
 *   today. If your tz.h is older than the library, you get the fields you know, and the others
 *   count as 0. If it is newer, fields that the library does not know come back as 0, and setting
 *   one is TZ_E_ARGUMENT. In an array, the struct_size of the first element counts for all.
 *   All other structs, functions and numbers are final within an ABI version. These structs only
 *   say where bytes are, and there may be very many of them. Encryption, other codecs and metadata
 *   of tensors need only new fields and functions.
 * Not promised:
 *   - How a plan divides the file into requests, and the bytes that tz_chunks_encode() compresses
 *     to: do not compare them between versions. Within a version, equal input gives equal bytes on
 *     every CPU.
 *   - Constant time, and wiping of memory: the library handles no secrets today.
 *
 * All sizes and offsets are in bytes. Ranges are half-open. Fields named `reserved` are 0.
 */
#ifndef TZ_H
#define TZ_H

#include <stddef.h>
#include <stdint.h>

/* The version of this header. tz_version() returns that of the library. */
#define TZ_VERSION_MAJOR 0
#define TZ_VERSION_MINOR 1
#define TZ_VERSION_PATCH 0
#define TZ_VERSION_STRING "0.1.0-dev.0"
#define TZ_VERSION (TZ_VERSION_MAJOR * 1000000 + TZ_VERSION_MINOR * 1000 + TZ_VERSION_PATCH)

#ifdef __cplusplus
extern "C" {
#endif

/* Bindings parse the part between the two markers: plain C without preprocessor lines. */
/* CFFI-BEGIN */

/* ---- Status ---------------------------------------------------------------------------------- */

typedef int32_t tz_status;
enum {
    TZ_OK = 0,
    TZ_NEED_MORE = 1,           /* not an error: more bytes are needed, see the function */
    /* The caller or the machine failed. */
    TZ_E_ARGUMENT = 10,         /* NULL, an index out of range, sizes that contradict each other */
    TZ_E_MEMORY = 11,           /* an allocation failed; nothing was changed */
    TZ_E_BUFFER_TOO_SMALL = 12, /* *needed is the required size */
    TZ_E_NOT_FOUND = 13,        /* no tensor has this name */
    TZ_E_ENTRIES_MISSING = 14,  /* this tensor's chunk entries have not been put */
    TZ_E_SEQUENCE = 15,         /* calls in the wrong order, see the function */
    /* The data is invalid. Section 13 of the specification defines names and order of checks. */
    TZ_E_NOT_TZ = 20, TZ_E_TRUNCATED = 21, TZ_E_TRAILING = 22, TZ_E_VERSION = 23,
    TZ_E_FEATURE = 24, TZ_E_LIMIT = 25, TZ_E_CHECKSUM = 26, TZ_E_RESERVED = 27,
    TZ_E_DIRECTORY = 28, TZ_E_LAYOUT = 29, TZ_E_NAME = 30, TZ_E_SHAPE = 31, TZ_E_ORDER = 32,
    TZ_E_TIE = 33, TZ_E_CHUNK = 34, TZ_E_CODEC = 35, TZ_E_STRUCTURE = 36, TZ_E_METADATA = 37,
    TZ_E_DIGEST = 38, TZ_E_CONTENT = 39,
    /* Formats other than tz. */
    TZ_E_JSON = 50,             /* the header is not the JSON that the format requires */
    TZ_E_FOREIGN = 51           /* sizes, names or offsets contradict each other */
};

/* Where an error was found, and the reason. Unknown fields are UINT64_MAX (offset, tensor, chunk),
 * 0 (rule, name_size) or NULL (reason); so are all fields after a call without an error. */
typedef struct {
    uint32_t struct_size;
    uint32_t rule;              /* nn of the requirement [TZ1-nn] of the specification */
    uint64_t offset;            /* in the file */
    uint64_t tensor;            /* index in the tensor table; in a builder, of the spec */
    uint64_t chunk;             /* number of the chunk within its tensor */
    const char *reason;         /* what is wrong, such as "its dtype is unknown"; static text. Only
                                   for formats other than tz; for tz, see tz_status_text() */
    uint32_t name_size;
    uint32_t reserved;
    char name[256];             /* of the tensor, when tz_header_open() refuses a file; cut with an
                                   ellipsis if it is longer. These are the file's bytes: they may
                                   contain escape sequences, and may not be UTF-8 */
} tz_diagnostic;

enum { TZ_NONE32 = -1 };        /* as uint32_t, 0xFFFFFFFF: "no tensor", "not tied" */

/* A status as a word: "ok", "argument", or for data the error class of the specification, such as
 * "checksum"; "unknown" for a number that is not a status. Static, zero-terminated. */
const char *tz_status_name(tz_status status);

/* A status as a sentence in English, without capital and full stop: "the file ends too early".
 * Static, zero-terminated. */
const char *tz_status_text(tz_status status);

/* ---- Version --------------------------------------------------------------------------------- */

/* The library's version, "major.minor.patch" with an optional suffix. The format has its own. */
const char *tz_version(void);

/* The library's ABI version. It changes when a function, a number or a final struct changes. If you
 * load the library at run time, compare it with TZ_ABI_VERSION; linkers compare the soname. */
uint32_t tz_abi_version(void);
enum { TZ_ABI_VERSION = 1 };

/* The sizeof of a struct in the library, by name ("tz_request"); 0 for an unknown name. Bindings
 * compare it with their own declarations. */
size_t tz_struct_size(const char *name);

/* The kernels selected for this CPU: "v4", "baseline", "armv8_crypto" and so on. For logs. */
const char *tz_cpu_level(void);

/* ---- Checksums ------------------------------------------------------------------------------- */

/* CRC-32C of the bytes, continued from `initial`: 0 at the beginning, then the previous result.
 * `data` may be NULL when `size` is 0. */
uint32_t tz_crc32c(uint32_t initial, const void *data, size_t size);

/* The CRC-32 of zlib and gzip, in the same way. Record headers of .tensors files use it. */
uint32_t tz_crc32(uint32_t initial, const void *data, size_t size);

/* BLAKE3-256 of the bytes. `data` may be NULL when `size` is 0. */
void tz_blake3(const void *data, size_t size, uint8_t digest[32]);

/* BLAKE3-256 of a stream. The state is plain memory: it may be copied and needs no freeing. */
typedef struct {
    uint64_t opaque[256];
} tz_blake3_state;

/* Begins a stream: before the first use of a state, and to start over. */
void tz_blake3_init(tz_blake3_state *state);

/* Adds the next bytes of the stream. `data` may be NULL when `size` is 0. */
void tz_blake3_update(tz_blake3_state *state, const void *data, size_t size);

/* The digest of all bytes so far; more may follow. */
void tz_blake3_final(const tz_blake3_state *state, uint8_t digest[32]);

/* ---- Data types ------------------------------------------------------------------------------ */

typedef struct {
    uint32_t struct_size;
    uint32_t unit_bits;         /* size of a storage unit; dimensions count units */
    uint32_t elements;          /* numbers in a unit */
    uint32_t reserved;
    const char *name;           /* as in section 11 of the specification: "bf16" */
    const char *safetensors;    /* "BF16"; NULL if that format has no such type */
} tz_dtype_info;

/* Describes a dtype by its code. TZ_E_FEATURE: the code is unknown, as all of the extensible range
 * are. */
tz_status tz_dtype(uint32_t code, tz_dtype_info *out);

/* The code of a name of section 11; 0 if there is none. */
uint32_t tz_dtype_code(const char *name, size_t name_size);

/* ---- Headers: opening ------------------------------------------------------------------------ */

typedef struct tz_header tz_header;

enum { TZ_FORMAT_TZ = 1, TZ_FORMAT_SAFETENSORS = 2, TZ_FORMAT_COREWEAVE = 3 };
typedef struct {
    uint32_t struct_size;
    uint32_t format;            /* TZ_FORMAT_*: refuse any other; 0: recognise the format */
    const uint8_t *pin;         /* file digest of a tz file, 32 bytes, or NULL. With it, every
                                   changed bit is detected; without it, only accidental damage */
    uint64_t open_size_max;     /* the most bytes that opening may need; 0: the format's limit */
} tz_open_options;

/* Opens a file from its first bytes.
 *
 * A tz file begins with its magic number, a .tensors file of CoreWeave's Tensorizer (data versions
 * 1 to 5) with "|TZR|"; a .safetensors file has "{" as its ninth byte. The other two formats are
 * read more strictly than by their own libraries: no duplicate names, gaps, overlaps or trailing
 * bytes. Their tensors have no chunk checksums and no content digests. A nested .tensors file gives
 * names and nodes like those of a nested tz file.
 *   front, front_size: the first bytes of the file; at most file_size.
 *   file_size: the size of the whole file, as its source reports it.
 *   options: may be NULL, for a file of any format without a pin.
 *   out: gets the header; free it with tz_header_free().
 *   needed: gets a size with TZ_NEED_MORE.
 *
 *   TZ_OK: *out is the header. It keeps no pointer to `front`.
 *   TZ_NEED_MORE: call again with the first *needed bytes of the file, more than front_size and at
 *     most file_size. Happens at most twice.
 *   TZ_E_DIGEST: the file is not the pinned one. Only its first 128 bytes were read.
 *   TZ_E_NOT_TZ: the file has none of the formats, or not the one in the options.
 *   TZ_E_ARGUMENT: also for a pin together with another format than TZ_FORMAT_TZ.
 *   TZ_E_LIMIT: also when opening needs more than open_size_max.
 *   Other errors: the file is damaged; trust nothing in it. */
tz_status tz_header_open(const void *front, size_t front_size, uint64_t file_size,
                         const tz_open_options *options, tz_header **out, uint64_t *needed,
                         tz_diagnostic *diagnostic);

/* Frees a header. First free all plans and verifiers made from it. */
void tz_header_free(tz_header *header);

/* ---- Headers: contents ----------------------------------------------------------------------- */

typedef struct {
    uint32_t struct_size;
    uint32_t format;            /* TZ_FORMAT_* */
    uint32_t tensor_count;
    uint32_t metadata_count;
    uint64_t node_count;        /* of the structure; 0: a flat set of tensors */
    uint64_t chunk_count;
    uint64_t chunk_size;        /* decoded */
    uint64_t file_size;
    uint64_t header_size;
    uint64_t open_size;
    uint64_t decoded_size;      /* sum over all tensors that are not tied */
    uint64_t incompatible_flags;
    uint64_t compatible_flags;
    uint8_t file_digest[32];    /* zeros in other formats than tz */
    uint32_t is_encrypted;      /* 1: you must decrypt the data; .tensors files only */
    uint32_t reserved;
} tz_header_info;

/* Describes the file as a whole. Never fails with valid arguments. */
tz_status tz_header_get(const tz_header *header, tz_header_info *out);

enum {
    TZ_TENSOR_META = 1,         /* a shape without values: decoded_size is 0 for every shape */
    TZ_TENSOR_PARAMETER = 2,    /* a parameter of a module */
    TZ_TENSOR_BUFFER = 4,       /* a buffer of a module */
    TZ_TENSOR_DOTTED = 8        /* belongs to the root module: in the file, the name has a dot in
                                   front */
};

typedef struct {
    uint32_t struct_size;
    uint32_t dtype;             /* code */
    const char *name;
    uint64_t name_size;
    const uint64_t *shape;      /* `rank` dimensions, in storage units */
    uint32_t rank;
    uint32_t order;             /* position in the writer's order */
    uint32_t tie;               /* index of the owner, or TZ_NONE32 */
    uint32_t flags;             /* TZ_TENSOR_*; .tensors files only */
    uint64_t decoded_size;
    uint64_t stored_size;       /* 0 when tied or empty */
    uint64_t data_offset;
    uint64_t chunk_count;
    const uint8_t *content_digest; /* 32 bytes; NULL in other formats than tz */
} tz_tensor;

/* Describes tensor `index`, counted in the order of names. The pointers are valid as long as the
 * header.
 *
 *   TZ_E_ARGUMENT: also for an index that is not less than tensor_count. */
tz_status tz_header_tensor(const tz_header *header, uint32_t index, tz_tensor *out);

/* Finds a tensor by its name.
 *   name, name_size: the name, compared byte by byte.
 *   index: gets the index of the tensor.
 *
 *   TZ_E_NOT_FOUND: no tensor has this name. */
tz_status tz_header_find(const tz_header *header, const char *name, size_t name_size,
                         uint32_t *index);

/* All indices in the writer's order: tensor_count values. */
const uint32_t *tz_header_order(const tz_header *header);

typedef struct {
    const char *key;
    uint64_t key_size;
    const char *value;
    uint64_t value_size;
} tz_pair;

/* Metadata pair `index`, counted in the order of keys. The pointers are valid as long as the
 * header.
 *
 *   TZ_E_ARGUMENT: also for an index that is not less than metadata_count. */
tz_status tz_header_pair(const tz_header *header, uint32_t index, tz_pair *out);

enum { TZ_NODE_NONE = 0, TZ_NODE_BOOL = 1, TZ_NODE_INT = 2, TZ_NODE_FLOAT = 3, TZ_NODE_STR = 4,
       TZ_NODE_BYTES = 5, TZ_NODE_TENSOR = 6, TZ_NODE_DICT = 7, TZ_NODE_LIST = 8,
       TZ_NODE_TUPLE = 9, TZ_NODE_LARGE_INT = 10 };
enum { TZ_KEY_NONE = 0, TZ_KEY_STR = 1, TZ_KEY_INT = 2, TZ_KEY_LARGE_INT = 3 };

/* A node of the nested structure (section 9 of the specification). Integers that do not fit an
 * int64_t are large: 9 to 1024 bytes, two's complement, little-endian, as short as possible. */
typedef struct {
    uint32_t kind;              /* TZ_NODE_* */
    uint32_t key_kind;          /* TZ_KEY_* */
    uint64_t key;               /* size of key_bytes, or an int64_t */
    uint64_t value;             /* size of value_bytes, number of children, tensor index, int64_t,
                                   or the bits of a double */
    const uint8_t *key_bytes;   /* NULL unless TZ_KEY_STR or TZ_KEY_LARGE_INT */
    const uint8_t *value_bytes; /* NULL unless TZ_NODE_STR, _BYTES or _LARGE_INT */
} tz_node;

/* Node `index`, counted in preorder. The pointers are valid as long as the header.
 *
 *   TZ_E_ARGUMENT: also for an index that is not less than node_count. */
tz_status tz_header_node(const tz_header *header, uint64_t index, tz_node *out);

/* The content digest of the whole file (section 12). It is computed from the header alone.
 *
 *   TZ_E_FEATURE: the file has another format than tz. */
tz_status tz_header_content_digest(const tz_header *header, uint8_t digest[32]);

/* ---- Chunk entries --------------------------------------------------------------------------- */

typedef struct {
    uint64_t offset;
    uint64_t size;
} tz_range;

/* Returns the ranges of the file that hold the chunk entries of some tensors, without those that
 * have been put already. Other formats than tz have none.
 *   tensors, tensor_count: indices of the tensors; NULL means all.
 *   gap_max: ranges with at most this many bytes between them are joined.
 *   out, capacity: get the ranges, in ascending order; at most one per tensor.
 *   needed: gets the number of ranges, with TZ_E_BUFFER_TOO_SMALL too.
 *
 *   TZ_E_BUFFER_TOO_SMALL: there are more than `capacity` ranges; only the first ones were written.
 *   TZ_E_ARGUMENT: also for an index of a tensor that does not exist. */
tz_status tz_header_entry_ranges(const tz_header *header, const uint32_t *tensors,
                                 size_t tensor_count, uint64_t gap_max, tz_range *out,
                                 size_t capacity, size_t *needed);

/* Takes bytes of the file, checks the chunk entries in them, and keeps the entries until the header
 * is freed. A tensor's entries are taken only if all of them are in these bytes. All other bytes
 * are ignored, so you may pass the front that the header was opened from.
 *   offset: where the bytes begin in the file.
 *   bytes, size: the bytes; any part of the file.
 *
 *   TZ_E_CHECKSUM and others: no entry of the tensor at fault was kept; those of the tensors before
 *     it were.
 *
 * During the call, no other thread may call this function, tz_header_entry_ranges(),
 * tz_header_chunk() or tz_plan_new() with this header. Everything else may run at the same time,
 * such as tz_plan_process() with existing plans, and verifiers. */
tz_status tz_header_put_entries(tz_header *header, uint64_t offset, const void *bytes, size_t size,
                                tz_diagnostic *diagnostic);

typedef struct {
    uint32_t struct_size;
    uint32_t codec;
    uint64_t offset;            /* in the file */
    uint32_t stored_length;
    uint32_t decoded_length;
    uint32_t crc;
    uint32_t reserved;
    const uint8_t *digest;      /* 32 bytes; NULL in other formats than tz */
} tz_chunk;

/* Describes chunk number `chunk` of a tensor. Takes time at most in proportion to that number.
 *
 *   TZ_E_ENTRIES_MISSING: the tensor's chunk entries have not been put.
 *   TZ_E_ARGUMENT: also for a tensor or a chunk that does not exist. */
tz_status tz_header_chunk(const tz_header *header, uint32_t tensor, uint64_t chunk, tz_chunk *out);

/* ---- Record headers of .tensors files -------------------------------------------------------- */

/* The range of a tensor's record header. It is right before the tensor's data, and a plan can read
 * both together (TZ_ITEM_RECORD).
 *
 *   TZ_E_ARGUMENT: also for other formats, and for a tensor that does not exist. */
tz_status tz_header_record(const tz_header *header, uint32_t tensor, tz_range *out);

enum { TZ_RECORD_CRC32 = 1 };   /* there is a CRC-32: see tz_crc32() */

/* The part of a record header that is not in the index. Pointers point into your `record`.
 *
 * The hashes cover the first hashed_size bytes of `hashed` and then the tensor's decrypted data.
 * Encrypted data consists of cipher_chunk_count pieces of cipher_chunk_size bytes; the last one may
 * be shorter.
 * Each piece is a secretbox of NaCl (XSalsa20-Poly1305) without its tag, which is the 16 bytes at
 * tags + 16 * i. The nonce of piece i is `nonce` + i, as a little-endian number of 24 bytes. */
typedef struct {
    uint32_t struct_size;
    uint32_t module;            /* a number chosen by the writer */
    uint32_t flags;             /* TZ_RECORD_* */
    uint32_t crc32;
    const uint8_t *sha256;      /* 32 bytes, or NULL */
    uint64_t hashed_size;
    uint64_t cipher_chunk_size;
    uint64_t cipher_chunk_count;
    const uint8_t *nonce;       /* 24 bytes; NULL: the data is not encrypted */
    const uint8_t *tags;
    uint64_t opslimit;          /* the key is derived from a passphrase by Argon2id, as in */
    uint64_t memlimit;          /* libsodium's crypto_pwhash(). Limit both: the file chooses them */
    const uint8_t *salt;        /* 16 bytes; NULL: the key is not derived from a passphrase */
} tz_record;

/* Parses the record header of a tensor and compares it with the index. It computes no hash and
 * decrypts nothing.
 *   record, size: the bytes of the range that tz_header_record() returns.
 *   hashed: memory of the same size; gets the bytes that the hashes cover before the data.
 *
 *   TZ_E_FOREIGN: the record contradicts the index, or it has plain data in an encrypted file.
 *   TZ_E_FEATURE: a hash, a cipher or a key derivation is of an unknown kind.
 *   TZ_E_ARGUMENT: also for a size that is not that of the range. */
tz_status tz_record_parse(const tz_header *header, uint32_t tensor, const void *record, size_t size,
                          void *hashed, tz_record *out, tz_diagnostic *diagnostic);

/* ---- Plans: what to read, and where it goes -------------------------------------------------- */

enum { TZ_ITEM_RECORD = 1 };    /* the tensor's record header instead: see tz_header_record() */

/* A tensor, or a box of it: rows [begin[0], end[0]), and so on. The result is contiguous, in
 * row-major order. */
typedef struct {
    uint32_t struct_size;
    uint32_t tensor;
    uint32_t flags;             /* TZ_ITEM_*; a record header has no boxes */
    uint32_t reserved;
    const uint64_t *begin;      /* `rank` values each; both NULL: the whole tensor */
    const uint64_t *end;
} tz_read_item;

enum {
    /* Receive and decode everything in staging memory, from which you copy it, for example to a
     * device: see tz_plan_pieces(). Boxes must be contiguous in their tensor. */
    TZ_PLAN_STAGED = 1
};

typedef struct {
    uint32_t struct_size;
    uint32_t flags;             /* TZ_PLAN_* */
    uint64_t request_size_max;  /* a request ends before the chunk that exceeds this; 0: 16 MiB */
    uint64_t gap_max;           /* read up to this many unwanted bytes between chunks; 0: 64 KiB */
    uint64_t slab_size_max;     /* small tensors share allocations of about this size; 0: none do */
    uint64_t slab_tensor_max;   /* only tensors of at most this decoded size share one */
} tz_plan_options;

typedef struct tz_plan tz_plan;

/* Plans how to read some items. The plan never changes afterwards.
 *   header: must outlive the plan.
 *   items, item_count: what to read, in any order. Tied tensors that are read whole share one
 *     placement with their owner.
 *   options: may be NULL, for the defaults.
 *   out: gets the plan; free it with tz_plan_free().
 *
 *   TZ_E_ENTRIES_MISSING: the diagnostic names a tensor whose chunk entries have not been put.
 *   TZ_E_ARGUMENT: also for a box that is not contiguous, in a staged plan.
 *   TZ_E_FEATURE: a box of a tensor whose dtype is unknown. Whole, such a tensor is read as any
 *     other.
 *   TZ_E_LIMIT: the plan would be too large. */
tz_status tz_plan_new(const tz_header *header, const tz_read_item *items, size_t item_count,
                      const tz_plan_options *options, tz_plan **out, tz_diagnostic *diagnostic);

/* Frees a plan. The allocations are yours: they, and the tensors in them, stay. */
void tz_plan_free(tz_plan *plan);

typedef struct {
    uint32_t struct_size;
    uint32_t request_count;
    uint64_t segment_count;
    uint64_t piece_count;       /* 0 unless TZ_PLAN_STAGED */
    uint32_t allocation_count;  /* 0 with TZ_PLAN_STAGED */
    uint32_t reserved;
    uint64_t staging_size_max;  /* the largest staging_size of a request */
    uint64_t gap_size_max;      /* the largest segment that goes nowhere */
    uint64_t bytes_read;        /* sum of the requests */
    uint64_t bytes_wanted;      /* sum of the items, decoded; shared placements count once */
} tz_plan_info;

/* Describes the plan. Never fails with valid arguments. */
tz_status tz_plan_get(const tz_plan *plan, tz_plan_info *out);

/* A range of the file, to be read from front to back into its segments. Requests ascend and do not
 * overlap. They may be read in any order, and at the same time. */
typedef struct {
    uint64_t offset;
    uint64_t size;
    uint64_t segment_begin;
    uint64_t piece_begin;
    uint32_t segment_count;
    uint32_t piece_count;
    uint64_t staging_size;      /* staging memory that this request needs; 0: none */
} tz_request;

enum { TZ_TO_STAGING = -1, TZ_TO_NOWHERE = -2 }; /* as uint32_t, in tz_segment.allocation */

/* Where consecutive bytes of a request go: to a position in an allocation or in the request's
 * staging memory, or nowhere (read and discard). Segments cover a request without gaps. */
typedef struct {
    uint64_t size;
    uint64_t position;
    uint32_t allocation;        /* index, TZ_TO_STAGING or TZ_TO_NOWHERE */
    uint32_t reserved;
} tz_segment;

/* Where the decoded bytes of an item are: one for each item, in the order of the items. */
typedef struct {
    uint64_t position;
    uint64_t size;
    uint32_t allocation;        /* TZ_NONE32 when size is 0 or the plan is staged */
    uint32_t reserved;
} tz_placement;

/* With TZ_PLAN_STAGED: after tz_plan_process(), the bytes [position, position + size) of the
 * request's staging memory are those of item `item` from item_offset on. If several items are tied,
 * pieces name only the first. */
typedef struct {
    uint64_t item_offset;
    uint64_t size;
    uint64_t position;
    uint32_t item;
    uint32_t reserved;
} tz_piece;

/* The lists of a plan. Each is valid as long as the plan; do not read one that has no elements. */

/* request_count requests. */
const tz_request *tz_plan_requests(const tz_plan *plan);

/* segment_count segments. A request's are [segment_begin, segment_begin + segment_count). */
const tz_segment *tz_plan_segments(const tz_plan *plan);

/* piece_count pieces. A request's are [piece_begin, piece_begin + piece_count). */
const tz_piece *tz_plan_pieces(const tz_plan *plan);

/* item_count placements, as many as items were given to tz_plan_new(). */
const tz_placement *tz_plan_placements(const tz_plan *plan);

/* allocation_count sizes, one for each allocation. Allocate them, aligned to 64, before the first
 * tz_plan_process(). */
const uint64_t *tz_plan_allocations(const tz_plan *plan);

/* A CRC detects accidental damage and costs very little; the digest is for pinned files. */
enum { TZ_VERIFY_NONE = 0, TZ_VERIFY_CRC = 1, TZ_VERIFY_DIGEST = 2 };

/* Checks and decodes the chunks of a request that have arrived. Call it as bytes arrive, while they
 * are still in cache, or once at the end. Many threads may process different requests of a plan.
 *   request: index of the request.
 *   received: how many of its bytes have arrived in its segments, counted from the front.
 *   staging: its staging memory; NULL if it needs none.
 *   allocations: the address of each allocation; NULL with TZ_PLAN_STAGED.
 *   verify: TZ_VERIFY_*.
 *   next: the number of the request's first chunk that has not been processed. 0 before the first
 *     call; the function advances it, after an error up to the chunk at fault.
 *
 *   TZ_E_CHECKSUM, TZ_E_CODEC, TZ_E_FEATURE: the diagnostic names tensor and chunk. The contents of
 *     the destinations are undefined; do not use them. */
tz_status tz_plan_process(const tz_plan *plan, uint32_t request, uint64_t received, void *staging,
                          void *const *allocations, uint32_t verify, uint64_t *next,
                          tz_diagnostic *diagnostic);

/* Checks one chunk and decodes it. Use it to read a single tensor of one chunk: making a plan takes
 * longer. Needs no lock, and allocates nothing.
 *   tensor, chunk: the index of the tensor, and its chunk as tz_header_chunk() returned it.
 *   verify: TZ_VERIFY_*.
 *   stored: the chunk as it is in the file, stored_length bytes.
 *   out: gets decoded_length bytes; fastest if aligned to 64. NULL: the chunk is only checked. A
 *     raw chunk needs no decoding: `stored` is its data.
 *   scratch: memory of tz_decode_scratch_size() bytes, of any content. May be NULL for chunks that
 *     are stored raw.
 *
 *   TZ_E_CHECKSUM, TZ_E_CODEC, TZ_E_FEATURE: as from tz_plan_process(); the contents of `out` are
 *     undefined.
 *   TZ_E_ARGUMENT: also for lengths that a chunk of the tensor cannot have. */
tz_status tz_chunk_decode(const tz_header *header, uint32_t tensor, const tz_chunk *chunk,
                          uint32_t verify, const void *stored, void *out, void *scratch);

/* The size of the scratch memory of tz_chunk_decode(): the same for every chunk. */
size_t tz_decode_scratch_size(void);

/* ---- Checking whole files -------------------------------------------------------------------- */

typedef struct tz_verifier tz_verifier;

/* Begins a check of a whole tz file: both checksums of every chunk, content digests, padding and
 * flags. The order is that of the specification, so every implementation gives the same verdict.
 * Repeat: call tz_verifier_next(), read that range, call tz_verifier_put(). When the range is
 * empty, call tz_verifier_finish().
 *   header: must outlive the verifier; needs no chunk entries.
 *
 *   TZ_E_ARGUMENT: also for other formats. */
tz_status tz_verifier_new(const tz_header *header, tz_verifier **out);

/* Frees a verifier, at any time; the header stays. */
void tz_verifier_free(tz_verifier *verifier);

/* The range of the file to put next. It has at most 16 MiB, unless one chunk or the chunk entries
 * of one tensor are larger. Its size is 0 at the end. Called again, it gives the same range.
 *
 *   TZ_E_CONTENT: a tensor without data has a content digest other than that of no bytes. */
tz_status tz_verifier_next(tz_verifier *verifier, tz_range *out, tz_diagnostic *diagnostic);

/* Checks the bytes of that range. After an error, the verifier can only be freed.
 *   bytes, size: exactly that range.
 *
 *   TZ_E_CHECKSUM: a checksum of chunk entries or of a chunk does not match.
 *   TZ_E_RESERVED, TZ_E_FEATURE, TZ_E_CHUNK: a chunk entry is invalid.
 *   TZ_E_CODEC: a compressed chunk does not decode. TZ_E_FEATURE: its dtype is unknown.
 *   TZ_E_CONTENT: the decoded data of a tensor does not match its content digest.
 *   TZ_E_ARGUMENT: also for a size that is not that of the range, and at the end.
 *
 * With errors of data the diagnostic names the tensor, and the chunk if one is at fault. */
tz_status tz_verifier_put(tz_verifier *verifier, const void *bytes, size_t size,
                          tz_diagnostic *diagnostic);

/* Ends the check.
 *
 *   TZ_OK: the file is whole.
 *   TZ_E_RESERVED: a byte of padding is not 0; the diagnostic has the offset of the first one.
 *   TZ_E_FEATURE: the header has the flag of a codec that no chunk uses.
 *   TZ_E_SEQUENCE: not everything has been put. */
tz_status tz_verifier_finish(tz_verifier *verifier, tz_diagnostic *diagnostic);

/* ---- Writing --------------------------------------------------------------------------------- */

typedef struct {
    uint32_t struct_size;
    uint32_t dtype;             /* code */
    const char *name;
    uint64_t name_size;
    const uint64_t *shape;      /* `rank` dimensions, in storage units */
    uint32_t rank;
    uint32_t tie;               /* index of another spec with the same dtype and shape, whose data
                                   this one shares; or TZ_NONE32 */
    uint64_t decoded_size;      /* in bytes. May be 0, unless the dtype is of the extensible range:
                                   there it does not follow from the shape */
} tz_tensor_spec;

typedef struct {
    uint32_t struct_size;
    uint32_t chunk_size_log2;   /* 16 to 26; 0: the default for this amount of data */
    const tz_pair *metadata;    /* in any order, without duplicate keys */
    uint64_t metadata_count;
    const tz_node *nodes;       /* in preorder; tensor nodes name the index of a spec */
    uint64_t node_count;        /* 0: a flat set of tensors */
} tz_builder_options;

typedef struct tz_builder tz_builder;

/* Lays out a file.
 *   specs, spec_count: the tensors, in the order of their data in the file. They are checked as a
 *     reader would check the file. Ties may name any spec of a group; the one with the smallest
 *     name becomes the owner.
 *   options: may be NULL, for a flat file without metadata.
 *   out: gets the builder; free it with tz_builder_free().
 *
 *   TZ_E_NAME and other errors of data: such a file would be invalid; diagnostic->tensor is the
 *     index of the spec. */
tz_status tz_builder_new(const tz_tensor_spec *specs, size_t spec_count,
                         const tz_builder_options *options, tz_builder **out,
                         tz_diagnostic *diagnostic);

/* Frees a builder, at any time; what you have written of the file is yours to keep or remove. */
void tz_builder_free(tz_builder *builder);

typedef struct {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t header_size;       /* data begins at or after this offset */
    uint64_t chunk_size;
    uint64_t chunk_count;
    uint64_t decoded_size;      /* sum over all tensors with data of their own */
    uint64_t file_size_max;     /* the file will not be larger */
} tz_builder_info;

/* Describes the file that is being built. Never fails with valid arguments. */
tz_status tz_builder_get(const tz_builder *builder, tz_builder_info *out);

/* 1: this spec's data must be put. 0: it is empty, or it is tied and not the owner, or there is no
 * such spec. */
uint32_t tz_builder_has_data(const tz_builder *builder, uint32_t spec);

enum { TZ_COMPRESS_OFF = 0, TZ_COMPRESS_AUTO = 1 };
typedef struct {
    uint32_t struct_size;
    uint32_t dtype;             /* code */
    uint32_t compress;          /* TZ_COMPRESS_* */
    uint32_t reserved;
    uint64_t chunk_size;        /* as in tz_builder_info */
} tz_encode_options;

/* A chunk as it goes into the file. */
typedef struct {
    uint32_t struct_size;
    uint32_t stored_length;
    uint32_t codec;
    uint32_t crc;
    uint8_t digest[32];
} tz_chunk_entry;

/* How large `out` of tz_chunks_encode() must be for `size` bytes; 0 if the options are invalid. */
size_t tz_chunks_encode_bound(const tz_encode_options *options, size_t size);

/* Encodes decoded bytes of one tensor into chunks. Every compressed chunk is decoded again and
 * compared with the source. May be called by many threads at once.
 *   source, size: whole chunks of the tensor; at the tensor's end, the last one may be shorter. Not
 *     empty.
 *   out, out_capacity: memory of tz_chunks_encode_bound() bytes or more. Gets the chunks as they
 *     are in the file, each at a multiple of 64, with zeros between.
 *   out_size: gets the number of these bytes. 0: no chunk was compressed and nothing was copied;
 *     write `source` itself to the file.
 *   entries, entry_count: get one entry per chunk. The first one's struct_size must be set.
 *
 *   TZ_E_CODEC: a chunk did not decode to the source; libtz or the machine is at fault.
 *   TZ_E_ARGUMENT: also for a buffer that is too small, and for a wrong number of entries. */
tz_status tz_chunks_encode(const tz_encode_options *options, const void *source, size_t size,
                           void *out, size_t out_capacity, size_t *out_size,
                           tz_chunk_entry *entries, size_t entry_count);

/* Appends chunks to the file.
 *   spec: put specs with data in their order, and the chunks of each in order.
 *   entries, count: the entries of these chunks, as tz_chunks_encode() makes them; at least one.
 *   offset: gets the offset of the first of these chunks; the others follow at multiples of 64.
 *
 *   TZ_E_SEQUENCE: other chunks must be put first, or these are none or too many.
 *   TZ_E_ARGUMENT: also for an entry that no chunk can have. */
tz_status tz_builder_put_chunks(tz_builder *builder, uint32_t spec, const tz_chunk_entry *entries,
                                size_t count, uint64_t *offset);

/* Sets the content digest of a spec with data; at any time before tz_builder_finish().
 *   digest: the BLAKE3 of all its decoded bytes.
 *
 *   TZ_E_SEQUENCE: the spec has no data, or its content digest has been put already.
 *   TZ_E_ARGUMENT: also for a spec that does not exist. */
tz_status tz_builder_put_content(tz_builder *builder, uint32_t spec, const uint8_t digest[32]);

/* Makes the header, which goes to offset 0.
 *   out, capacity: get the header. `out` may be NULL, to get only the size.
 *   needed: gets its size, with TZ_E_BUFFER_TOO_SMALL too.
 *   file_size, file_digest: get those of the whole file; either may be NULL.
 *
 *   TZ_E_BUFFER_TOO_SMALL: the header has more than `capacity` bytes; nothing was written to `out`.
 *   TZ_E_SEQUENCE: not all chunks and content digests have been put. */
tz_status tz_builder_finish(const tz_builder *builder, void *out, size_t capacity, size_t *needed,
                            uint64_t *file_size, uint8_t file_digest[32]);

/* CFFI-END */

#ifdef __cplusplus
}
#endif

#endif
