/*
 * tz.h - the C interface of libtz
 *
 * libtz reads and writes the tz file format (spec/tz-v1.md), which holds the weights of models. It
 * also reads the headers of .safetensors files and of CoreWeave's .tensors files.
 *
 * The library does no input or output. You give it bytes; it tells you which bytes it needs next,
 * and it checks, decodes and encodes them. It has no threads, no global state and no locale, reads
 * no environment, writes no log, and does not need the C library. Any bytes at all give a result or
 * a status: it never aborts on them, and never touches memory outside the buffers it was given.
 *
 * bindings/c/tz_show.c is a complete program; bindings/rust and bindings/go do the same.
 *
 * Reading a file:
 *
 *   1. Read the first megabyte.                    tz_header_open() -> a header, or how much more
 *   2. Look around.                                tz_header_tensor(), tz_header_find()
 *   3. Fetch the chunk entries of what you want.   tz_header_entry_ranges(),
 *                                                  tz_header_put_entries()
 *   4. Plan.                                       tz_plan_new() -> requests, allocations
 *   5. For each request, on any thread: receive its bytes into its segments; tz_plan_process()
 *      then checks and decodes them. After the last one, your tensors lie in your allocations.
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
 * Writing a file: tz_builder_new(); then, for each tensor, tz_chunks_encode(),
 * tz_builder_put_chunks(), write the bytes where it says, tz_builder_put_content();
 * tz_builder_finish() makes the header, which goes to offset 0.
 *
 * Checking a whole file, padding and content digests included: tz_verifier_new().
 *
 * Errors. A function that can fail returns a tz_status: TZ_OK (0), TZ_NEED_MORE, or an error.
 *   Errors 10 to 19 blame the caller or the machine, errors from 20 on the data. Later versions may
 *   add statuses: treat a number that you do not know as an error of its range.
 *   Outputs are written only with TZ_OK, unless a function says otherwise. After an error an object
 *   is as it was before the call, unless the function says otherwise.
 *   NULL for an object or an output is TZ_E_ARGUMENT, and so is NULL for bytes whose size is not 0.
 *   The few functions that return no status (accessors, checksums) do not check their pointers.
 *   A `tz_diagnostic *` may be NULL; otherwise every call fills it in, with or without an error.
 * Ownership. An object comes from a function *_new or *_open and is freed by *_free, which accepts
 *   NULL. What you pass in is copied, or used during the call only. A pointer that you are given is
 *   borrowed: it is valid as long as the object it came from, and what it points to never changes.
 *   Text is UTF-8 with a size and without a final zero; only a `const char *` without a size ends
 *   with a zero.
 * Memory comes from the system, not from malloc(), in proportion to the bytes that you passed in:
 *   sizes that a file merely claims cost nothing. A header takes up to about 20 times its open_size
 *   (for a nested .tensors file 50 times, and 20 MB), a plan 100 to 200 bytes per chunk. A failed
 *   allocation is TZ_E_MEMORY; the call may be repeated.
 *   Headers and chunk entries are copied before they are checked, so your buffer may be a mapping
 *   that someone else writes to. What tz_plan_process() works on must not change meanwhile.
 * Threads. Different objects are independent. Functions that take a const object may run at the
 *   same time on the same object; the others need it to themselves, with one exception that
 *   tz_header_put_entries() describes. *_free always needs the object to itself.
 * Growth. A struct that begins with struct_size may get new fields, at its end, in later versions.
 *   Set struct_size to sizeof the struct and what you do not use to 0, which keeps today's meaning.
 *   With an older header you get the fields that you know, and the library takes the others as 0.
 *   With a newer header, fields that the library does not know come back as 0, and setting one is
 *   TZ_E_ARGUMENT. In an array, the struct_size of the first element counts for all of them.
 *   All other structs are final, as are functions and numbers, within an ABI version: there may be
 *   very many of them, and they only say where bytes lie. Encryption, other codecs and metadata of
 *   tensors need new fields and functions only.
 * Not promised. How a plan cuts its requests, and the bytes that tz_chunks_encode() compresses to:
 *   do not compare them with those of another version. With one version, equal input gives equal
 *   bytes on every CPU. Time that does not depend on data, and memory that is wiped: nothing that
 *   the library handles today is secret.
 *
 * All sizes and offsets are in bytes. Ranges are half-open. Fields named `reserved` are 0.
 */
#ifndef TZ_H
#define TZ_H

#include <stddef.h>
#include <stdint.h>

/* The version of the library that this header belongs to. tz_version() is that of the library. */
#define TZ_VERSION_MAJOR 0
#define TZ_VERSION_MINOR 1
#define TZ_VERSION_PATCH 0
#define TZ_VERSION_STRING "0.1.0-dev.0"
#define TZ_VERSION (TZ_VERSION_MAJOR * 1000000 + TZ_VERSION_MINOR * 1000 + TZ_VERSION_PATCH)

#ifdef __cplusplus
extern "C" {
#endif

/* Between the two markers is plain C without preprocessor lines, which bindings read as it is. */
/* CFFI-BEGIN */

/* ---- Status ---------------------------------------------------------------------------------- */

typedef int32_t tz_status;
enum {
    TZ_OK = 0,
    TZ_NEED_MORE = 1,           /* not an error: more bytes are needed, see the function */
    /* The caller's mistake, or the machine's. */
    TZ_E_ARGUMENT = 10,         /* NULL, an index out of range, sizes that contradict each other */
    TZ_E_MEMORY = 11,           /* an allocation failed; nothing was changed */
    TZ_E_BUFFER_TOO_SMALL = 12, /* *needed is the size that would do */
    TZ_E_NOT_FOUND = 13,        /* no tensor has this name */
    TZ_E_ENTRIES_MISSING = 14,  /* this tensor's chunk entries have not been put */
    TZ_E_SEQUENCE = 15,         /* calls in the wrong order, see the function */
    /* The data's mistake. Section 13 of the specification has the names and the order of checks. */
    TZ_E_NOT_TZ = 20, TZ_E_TRUNCATED = 21, TZ_E_TRAILING = 22, TZ_E_VERSION = 23,
    TZ_E_FEATURE = 24, TZ_E_LIMIT = 25, TZ_E_CHECKSUM = 26, TZ_E_RESERVED = 27,
    TZ_E_DIRECTORY = 28, TZ_E_LAYOUT = 29, TZ_E_NAME = 30, TZ_E_SHAPE = 31, TZ_E_ORDER = 32,
    TZ_E_TIE = 33, TZ_E_CHUNK = 34, TZ_E_CODEC = 35, TZ_E_STRUCTURE = 36, TZ_E_METADATA = 37,
    TZ_E_DIGEST = 38, TZ_E_CONTENT = 39,
    /* Formats other than tz. */
    TZ_E_JSON = 50,             /* the header is not the JSON that the format asks for */
    TZ_E_FOREIGN = 51           /* sizes, names or offsets contradict each other */
};

/* Where an error was found, and why it is one. A field that says nothing, as all do after a call
 * without an error, is UINT64_MAX (offset, tensor, chunk), 0 (rule, name_size) or NULL (reason). */
typedef struct {
    uint32_t struct_size;
    uint32_t rule;              /* nn of the requirement [TZ1-nn] of the specification */
    uint64_t offset;            /* in the file */
    uint64_t tensor;            /* index in the tensor table; in a builder, of the spec */
    uint64_t chunk;             /* number of the chunk within its tensor */
    const char *reason;         /* what is wrong, such as "its dtype is unknown"; static text. Only
                                   formats other than tz have it; otherwise see tz_status_text() */
    uint32_t name_size;
    uint32_t reserved;
    char name[256];             /* of the tensor, when tz_header_open() refuses a file; cut with an
                                   ellipsis if it is longer. As the file has it: it may hold escape
                                   sequences, or bytes that are not UTF-8 */
} tz_diagnostic;

enum { TZ_NONE32 = -1 };        /* as uint32_t, 0xFFFFFFFF: "no tensor", "not tied" */

/* A status as a word: "ok", "argument", or for data the error class of the specification, such as
 * "checksum"; "unknown" for a number that is not a status. Static text that ends with a zero. */
const char *tz_status_name(tz_status status);

/* A status as a sentence for people, in English, without capital and full stop: "the file ends too
 * early". Static text that ends with a zero. */
const char *tz_status_text(tz_status status);

/* ---- Version --------------------------------------------------------------------------------- */

/* The library's version, "major.minor.patch" with an optional suffix. The format has its own. */
const char *tz_version(void);

/* The library's ABI version: changes when a function, a number or a final struct does. Compare it
 * with TZ_ABI_VERSION when you load the library at run time; linkers go by the soname. */
uint32_t tz_abi_version(void);
enum { TZ_ABI_VERSION = 1 };

/* sizeof a struct as the library was built, by name ("tz_request"); 0 for an unknown name. Bindings
 * compare it with their own declarations. */
size_t tz_struct_size(const char *name);

/* The kernels that this CPU gets: "v4", "baseline", "armv8_crypto" and so on. For logs. */
const char *tz_cpu_level(void);

/* ---- Checksums ------------------------------------------------------------------------------- */

/* CRC-32C of the bytes, continued from `initial`: 0 to begin with, after that the last result.
 * `data` may be NULL when `size` is 0. */
uint32_t tz_crc32c(uint32_t initial, const void *data, size_t size);

/* The CRC-32 of zlib and gzip, in the same way. Record headers of .tensors files have it. */
uint32_t tz_crc32(uint32_t initial, const void *data, size_t size);

/* BLAKE3-256 of the bytes. */
void tz_blake3(const void *data, size_t size, uint8_t digest[32]);

/* BLAKE3-256 of a stream. The state is plain memory: it may be copied and needs no freeing. */
typedef struct {
    uint64_t opaque[256];
} tz_blake3_state;

void tz_blake3_init(tz_blake3_state *state);
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

/* What a dtype's code means. TZ_E_FEATURE: nothing, like every code of the extensible range. */
tz_status tz_dtype(uint32_t code, tz_dtype_info *out);

/* The code of a name of section 11; 0 if there is none. */
uint32_t tz_dtype_code(const char *name, size_t name_size);

/* ---- Headers: opening ------------------------------------------------------------------------ */

typedef struct tz_header tz_header;

enum { TZ_FORMAT_TZ = 1, TZ_FORMAT_SAFETENSORS = 2, TZ_FORMAT_COREWEAVE = 3 };
typedef struct {
    uint32_t struct_size;
    uint32_t format;            /* TZ_FORMAT_*: refuse any other; 0: recognise the format */
    const uint8_t *pin;         /* file digest of a tz file, 32 bytes, or NULL. With it, nobody can
                                   change a bit unnoticed; without it, only accidents are found */
    uint64_t open_size_max;     /* the most bytes that opening may ask for; 0: the format's limit */
} tz_open_options;

/* Opens a file from its first bytes.
 *
 * A tz file begins with its magic number, a .tensors file of CoreWeave's Tensorizer (data versions
 * 1 to 5) with "|TZR|"; a .safetensors file has "{" as its ninth byte. These two are read more
 * strictly than by their own libraries: no duplicate names, gaps, overlaps or trailing bytes. Their
 * tensors have no chunk checksums and no content digests. In a nested .tensors file, names are as
 * in a tz file, and the nodes say how tensors belong together.
 *   front, front_size: the first bytes of the file; at most file_size.
 *   file_size: the size of the whole file, as its source reports it.
 *   options: may be NULL, for a file of any format without a pin.
 *   out: gets the header; free it with tz_header_free().
 *   needed: gets a size with TZ_NEED_MORE.
 *
 *   TZ_OK: *out is the header. It keeps no pointer to `front`.
 *   TZ_NEED_MORE: call again with the first *needed bytes of the file, more than front_size and at
 *     most file_size. Happens at most twice.
 *   TZ_E_DIGEST: the file is not the pinned one. Only its first 128 bytes were looked at.
 *   TZ_E_NOT_TZ: the file has none of the formats, or not the one that the options ask for.
 *   TZ_E_ARGUMENT: also for a pin together with another format than TZ_FORMAT_TZ.
 *   TZ_E_LIMIT: also when opening needs more than open_size_max.
 *   Other errors: the file is damaged; nothing in it is to be believed. */
tz_status tz_header_open(const void *front, size_t front_size, uint64_t file_size,
                         const tz_open_options *options, tz_header **out, uint64_t *needed,
                         tz_diagnostic *diagnostic);

/* Frees a header, after all plans and verifiers made from it. */
void tz_header_free(tz_header *header);

/* ---- Headers: looking around ----------------------------------------------------------------- */

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

tz_status tz_header_get(const tz_header *header, tz_header_info *out);

enum {
    TZ_TENSOR_META = 1,         /* a shape without values: decoded_size is 0 whatever the shape */
    TZ_TENSOR_PARAMETER = 2,    /* of a module */
    TZ_TENSOR_BUFFER = 4,       /* of a module */
    TZ_TENSOR_DOTTED = 8        /* of the root module: the file has a dot before the name */
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

/* Tensor `index`, in order of names. */
tz_status tz_header_tensor(const tz_header *header, uint32_t index, tz_tensor *out);

/* The index of the tensor with this name. TZ_E_NOT_FOUND: there is none. */
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

/* Metadata pair `index`, in order of keys. */
tz_status tz_header_pair(const tz_header *header, uint32_t index, tz_pair *out);

enum { TZ_NODE_NONE = 0, TZ_NODE_BOOL = 1, TZ_NODE_INT = 2, TZ_NODE_FLOAT = 3, TZ_NODE_STR = 4,
       TZ_NODE_BYTES = 5, TZ_NODE_TENSOR = 6, TZ_NODE_DICT = 7, TZ_NODE_LIST = 8,
       TZ_NODE_TUPLE = 9, TZ_NODE_LARGE_INT = 10 };
enum { TZ_KEY_NONE = 0, TZ_KEY_STR = 1, TZ_KEY_INT = 2, TZ_KEY_LARGE_INT = 3 };

/* A node of the nested structure, section 9 of the specification. A large integer is one that does
 * not fit an int64_t: 9 to 1024 bytes, two's complement, little-endian, as few as hold it. */
typedef struct {
    uint32_t kind;              /* TZ_NODE_* */
    uint32_t key_kind;          /* TZ_KEY_* */
    uint64_t key;               /* size of key_bytes, or an int64_t */
    uint64_t value;             /* size of value_bytes, number of children, tensor index, int64_t,
                                   or the bits of a double */
    const uint8_t *key_bytes;   /* NULL unless TZ_KEY_STR or TZ_KEY_LARGE_INT */
    const uint8_t *value_bytes; /* NULL unless TZ_NODE_STR, _BYTES or _LARGE_INT */
} tz_node;

/* Node `index`, in preorder. */
tz_status tz_header_node(const tz_header *header, uint64_t index, tz_node *out);

/* The content digest of the whole file (section 12). TZ_E_FEATURE in other formats than tz. */
tz_status tz_header_content_digest(const tz_header *header, uint8_t digest[32]);

/* ---- Chunk entries --------------------------------------------------------------------------- */

typedef struct {
    uint64_t offset;
    uint64_t size;
} tz_range;

/* Says which ranges of the file hold the chunk entries of some tensors, as far as they have not
 * been put yet. Other formats than tz need none.
 *   tensors, tensor_count: indices of the tensors; NULL means all.
 *   gap_max: ranges are joined when there are at most so many bytes between them.
 *   out, capacity: get the ranges, in ascending order; never more than one per tensor.
 *   needed: gets the number of ranges, with TZ_E_BUFFER_TOO_SMALL too. */
tz_status tz_header_entry_ranges(const tz_header *header, const uint32_t *tensors,
                                 size_t tensor_count, uint64_t gap_max, tz_range *out,
                                 size_t capacity, size_t *needed);

/* Takes bytes of the file, checks the chunk entries in them, and keeps these until the header is
 * freed. A tensor counts when all its entries lie inside; other bytes are passed over, so the front
 * that the header was opened from will do as well.
 *   offset: where the bytes begin in the file.
 *
 *   TZ_E_CHECKSUM and others: no entry of the tensor at fault was kept; those before it were.
 *
 * While it runs, no other thread may be in this function, tz_header_entry_ranges(),
 * tz_header_chunk() or tz_plan_new() with this header. All else may go on: tz_plan_process() with
 * plans made before, and verifiers. */
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

/* Chunk number `chunk` of a tensor. TZ_E_ENTRIES_MISSING: its entries have not been put. */
tz_status tz_header_chunk(const tz_header *header, uint32_t tensor, uint64_t chunk, tz_chunk *out);

/* ---- Record headers of .tensors files -------------------------------------------------------- */

/* Where the record header of a tensor lies: right before its data, with which a plan can fetch it
 * (TZ_ITEM_RECORD). TZ_E_ARGUMENT in other formats. */
tz_status tz_header_record(const tz_header *header, uint32_t tensor, tz_range *out);

enum { TZ_RECORD_CRC32 = 1 };   /* there is a CRC-32: see tz_crc32() */

/* What a record header says beyond the index. Pointers point into the bytes that you passed in.
 *
 * The hashes cover the first hashed_size bytes of `hashed` and then the tensor's data, decrypted.
 * Encrypted data are cipher_chunk_count pieces of cipher_chunk_size bytes, the last one shorter.
 * Each piece is a secretbox of NaCl (XSalsa20-Poly1305) without its tag, which is the 16 bytes at
 * tags + 16 * i. The nonce of piece i is `nonce` + i, as a little-endian number of 24 bytes. */
typedef struct {
    uint32_t struct_size;
    uint32_t module;            /* a number that the writer gave */
    uint32_t flags;             /* TZ_RECORD_* */
    uint32_t crc32;
    const uint8_t *sha256;      /* 32 bytes, or NULL */
    uint64_t hashed_size;
    uint64_t cipher_chunk_size;
    uint64_t cipher_chunk_count;
    const uint8_t *nonce;       /* 24 bytes; NULL: the data are not encrypted */
    const uint8_t *tags;
    uint64_t opslimit;          /* the key is made from a passphrase by Argon2id, as libsodium's */
    uint64_t memlimit;          /* crypto_pwhash() does. A file chooses these: have limits too */
    const uint8_t *salt;        /* 16 bytes; NULL: the key is not made from a passphrase */
} tz_record;

/* Parses the record header of a tensor and compares it with the index. It computes no hash and
 * decrypts nothing.
 *   record, size: the bytes of the range that tz_header_record() gives.
 *   hashed: memory of the same size, which gets what the hashes cover before the data.
 *
 *   TZ_E_FOREIGN: the record contradicts the index, or it has plain data in an encrypted file. */
tz_status tz_record_parse(const tz_header *header, uint32_t tensor, const void *record, size_t size,
                          void *hashed, tz_record *out, tz_diagnostic *diagnostic);

/* ---- Plans: what to read, and where it goes -------------------------------------------------- */

enum { TZ_ITEM_RECORD = 1 };    /* not the tensor but its record header: see tz_header_record() */

/* A tensor, or a box of it: rows [begin[0], end[0]), and so on. A box is delivered contiguous, in
 * row-major order. */
typedef struct {
    uint32_t struct_size;
    uint32_t tensor;
    uint32_t flags;             /* TZ_ITEM_*; a record header has no boxes */
    uint32_t reserved;
    const uint64_t *begin;      /* `rank` values each; both NULL: all of the tensor */
    const uint64_t *end;
} tz_read_item;

enum {
    /* Receive and decode everything in staging memory, from where you carry it on, to a device for
     * example: see tz_plan_pieces(). A box must then be contiguous in its tensor. */
    TZ_PLAN_STAGED = 1
};

typedef struct {
    uint32_t struct_size;
    uint32_t flags;             /* TZ_PLAN_* */
    uint64_t request_size_max;  /* a request ends before the chunk that exceeds this; 0: 16 MiB */
    uint64_t gap_max;           /* unwanted bytes worth reading between two chunks; 0: 64 KiB */
    uint64_t slab_size_max;     /* small tensors share allocations of about this size; 0: none do */
    uint64_t slab_tensor_max;   /* the largest decoded size of a tensor that shares */
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
 *   TZ_E_ARGUMENT: also for a box that is scattered, in a staged plan.
 *   TZ_E_FEATURE: a box of a tensor whose dtype is unknown. Whole, it is read as any other: what its
 *     bytes mean is for tz_dtype() to say, which does not know it.
 *   TZ_E_LIMIT: the plan would be too large. */
tz_status tz_plan_new(const tz_header *header, const tz_read_item *items, size_t item_count,
                      const tz_plan_options *options, tz_plan **out, tz_diagnostic *diagnostic);
void tz_plan_free(tz_plan *plan);

typedef struct {
    uint32_t struct_size;
    uint32_t request_count;
    uint64_t segment_count;
    uint64_t piece_count;       /* 0 unless TZ_PLAN_STAGED */
    uint32_t allocation_count;  /* 0 with TZ_PLAN_STAGED */
    uint32_t reserved;
    uint64_t staging_size_max;  /* the largest staging_size of a request */
    uint64_t gap_size_max;      /* the largest segment to be thrown away */
    uint64_t bytes_read;        /* sum of the requests */
    uint64_t bytes_wanted;      /* sum of the items, decoded; shared placements count once */
} tz_plan_info;

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

/* Where consecutive bytes of a request go: to a position in an allocation, to a position in the
 * request's staging memory, or nowhere (read and forget). Segments cover a request without gaps. */
typedef struct {
    uint64_t size;
    uint64_t position;
    uint32_t allocation;        /* index, TZ_TO_STAGING or TZ_TO_NOWHERE */
    uint32_t reserved;
} tz_segment;

/* Where the decoded bytes of an item lie: one for each item, in the order of the items. */
typedef struct {
    uint64_t position;
    uint64_t size;
    uint32_t allocation;        /* TZ_NONE32 when size is 0 or the plan is staged */
    uint32_t reserved;
} tz_placement;

/* With TZ_PLAN_STAGED: after tz_plan_process(), the bytes [position, position + size) of the
 * request's staging memory are those of item `item` from item_offset on. Of a tied tensor only the
 * first item is named. */
typedef struct {
    uint64_t item_offset;
    uint64_t size;
    uint64_t position;
    uint32_t item;
    uint32_t reserved;
} tz_piece;

const tz_request *tz_plan_requests(const tz_plan *plan);
const tz_segment *tz_plan_segments(const tz_plan *plan);
const tz_piece *tz_plan_pieces(const tz_plan *plan);
const tz_placement *tz_plan_placements(const tz_plan *plan);

/* The size of each allocation. Make them, aligned to 64, before the first tz_plan_process(). */
const uint64_t *tz_plan_allocations(const tz_plan *plan);

/* A CRC finds accidents and costs next to nothing; the digest is for pinned files. */
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
 *   TZ_E_CHECKSUM, TZ_E_CODEC, TZ_E_FEATURE: the diagnostic names tensor and chunk. What lies in
 *     the destinations is undefined; do not use it. */
tz_status tz_plan_process(const tz_plan *plan, uint32_t request, uint64_t received, void *staging,
                          void *const *allocations, uint32_t verify, uint64_t *next,
                          tz_diagnostic *diagnostic);

/* Checks one chunk and decodes it. For a tensor of one chunk that is read alone: to make a plan
 * takes longer. Needs no lock, and takes no memory.
 *   tensor, chunk: the index of the tensor, and what tz_header_chunk() says of its chunk.
 *   verify: TZ_VERIFY_*.
 *   stored: the chunk as it is in the file, stored_length bytes.
 *   out: gets decoded_length bytes; aligned to 64, it is filled faster. NULL: the chunk is only
 *     checked, and need not be decoded if it is stored raw.
 *   scratch: memory of tz_decode_scratch_size() bytes, of any content. NULL will do for chunks that
 *     are stored raw.
 *
 *   TZ_E_CHECKSUM, TZ_E_CODEC, TZ_E_FEATURE: as from tz_plan_process(), and so is what lies in
 *     `out`. TZ_E_ARGUMENT: also for lengths that a chunk of the tensor cannot have. */
tz_status tz_chunk_decode(const tz_header *header, uint32_t tensor, const tz_chunk *chunk,
                          uint32_t verify, const void *stored, void *out, void *scratch);

size_t tz_decode_scratch_size(void);

/* ---- Checking whole files -------------------------------------------------------------------- */

typedef struct tz_verifier tz_verifier;

/* Begins to check everything about a tz file: both checksums of every chunk, content digests,
 * padding, flags, in the order of the specification, so that every implementation gives the same
 * verdict. Call tz_verifier_next(), read that range, call tz_verifier_put(), and so on; when the
 * range is empty, call tz_verifier_finish().
 *   header: must outlive the verifier, and needs no chunk entries. TZ_E_ARGUMENT in other
 *     formats. */
tz_status tz_verifier_new(const tz_header *header, tz_verifier **out);
void tz_verifier_free(tz_verifier *verifier);

/* The range of the file to put next: at most 16 MiB, or one chunk, or the chunk entries of one
 * tensor. Its size is 0 when nothing is left. */
tz_status tz_verifier_next(tz_verifier *verifier, tz_range *out, tz_diagnostic *diagnostic);

/* Takes exactly the bytes of that range. After an error the verifier is of no more use. */
tz_status tz_verifier_put(tz_verifier *verifier, const void *bytes, size_t size,
                          tz_diagnostic *diagnostic);

/* TZ_OK: the file is whole. TZ_E_SEQUENCE: not everything has been put. */
tz_status tz_verifier_finish(tz_verifier *verifier, tz_diagnostic *diagnostic);

/* ---- Writing --------------------------------------------------------------------------------- */

typedef struct {
    uint32_t struct_size;
    uint32_t dtype;             /* code */
    const char *name;
    uint64_t name_size;
    const uint64_t *shape;      /* `rank` dimensions, in storage units */
    uint32_t rank;
    uint32_t tie;               /* index of another spec of the same dtype and shape whose data it
                                   shares, or TZ_NONE32 */
    uint64_t decoded_size;      /* in bytes; may be 0 unless the dtype is of the extensible range,
                                   whose shapes do not tell the size */
} tz_tensor_spec;

typedef struct {
    uint32_t struct_size;
    uint32_t chunk_size_log2;   /* 16 to 26; 0: the default for this amount of data */
    const tz_pair *metadata;    /* in any order; keys differ from one another */
    uint64_t metadata_count;
    const tz_node *nodes;       /* in preorder; tensor nodes name the index of a spec */
    uint64_t node_count;        /* 0: a flat set of tensors */
} tz_builder_options;

typedef struct tz_builder tz_builder;

/* Lays out a file of some tensors.
 *   specs, spec_count: the tensors, in the order in which their data will lie in the file. They
 *     are checked as a reader would check the file. Ties may name any spec of a group; the
 *     smallest name becomes the owner.
 *   options: may be NULL, for a flat file without metadata.
 *   out: gets the builder; free it with tz_builder_free().
 *
 * TZ_E_NAME and other errors of data: what the specs ask for cannot be written; diagnostic->tensor
 *   is the index of the spec. */
tz_status tz_builder_new(const tz_tensor_spec *specs, size_t spec_count,
                         const tz_builder_options *options, tz_builder **out,
                         tz_diagnostic *diagnostic);
void tz_builder_free(tz_builder *builder);

typedef struct {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t header_size;       /* data begin at or after this offset */
    uint64_t chunk_size;
    uint64_t chunk_count;
    uint64_t decoded_size;      /* sum over all tensors with data of their own */
    uint64_t file_size_max;     /* the file will not be larger */
} tz_builder_info;

tz_status tz_builder_get(const tz_builder *builder, tz_builder_info *out);

/* 1: this spec's data must be put. 0: it is empty, or it is tied and not the owner. */
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

/* Encodes decoded bytes of one tensor into chunks. Every chunk that is compressed is decoded again
 * and compared. May be called by many threads at once.
 *   source, size: the bytes, beginning at the border of a chunk: whole chunks, and at the end of
 *     the tensor the last, shorter one. Not empty.
 *   out, out_capacity: memory of tz_chunks_encode_bound() bytes or more. Gets the chunks as they
 *     lie in the file, each at a multiple of 64, with zeros between.
 *   out_size: gets how many bytes that are. 0 means that no chunk was compressed: nothing was
 *     copied, and `source` itself is what lies in the file.
 *   entries, entry_count: get one entry per chunk. The first one's struct_size must be set.
 *
 *   TZ_E_CODEC: a chunk did not decode to what went in, a fault in libtz or in the machine. */
tz_status tz_chunks_encode(const tz_encode_options *options, const void *source, size_t size,
                           void *out, size_t out_capacity, size_t *out_size,
                           tz_chunk_entry *entries, size_t entry_count);

/* Appends chunks to the file.
 *   spec: specs with data must come in their order, and the chunks of each in theirs.
 *   offset: gets where the first of these chunks lies; the others follow at multiples of 64.
 *
 *   TZ_E_SEQUENCE: other chunks must be put first, or these are too many. */
tz_status tz_builder_put_chunks(tz_builder *builder, uint32_t spec, const tz_chunk_entry *entries,
                                size_t count, uint64_t *offset);

/* The BLAKE3 of the spec's decoded bytes; once for each spec with data. */
tz_status tz_builder_put_content(tz_builder *builder, uint32_t spec, const uint8_t digest[32]);

/* Makes the header, which goes to offset 0.
 *   out, capacity: get the header. `out` may be NULL to learn the size.
 *   needed: gets its size, with TZ_E_BUFFER_TOO_SMALL too.
 *   file_size, file_digest: get those of the whole file; either may be NULL.
 *
 *   TZ_E_SEQUENCE: not all chunks and content digests have been put. */
tz_status tz_builder_finish(const tz_builder *builder, void *out, size_t capacity, size_t *needed,
                            uint64_t *file_size, uint8_t file_digest[32]);

/* CFFI-END */

#ifdef __cplusplus
}
#endif

#endif
