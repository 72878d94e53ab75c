/* Lists the tensors of a .tz, .safetensors or .tensors file. With a name, also reads that tensor,
 * checked and decoded.
 *
 *     tz_show FILE [NAME]
 *
 * An example to copy from: compile it with -I libtz/include, and link libtz.a or libtz.so. */
#define _FILE_OFFSET_BITS 64
#define _POSIX_C_SOURCE 200809L
#include "tz.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void die(const char *what, const char *why)
{
    fprintf(stderr, "tz_show: %s: %s\n", what, why);
    exit(1);
}

/* Exits with a message if `status` is an error. */
static void check(tz_status status, const char *what, const tz_diagnostic *where)
{
    if (status == TZ_OK)
        return;
    if (where->rule != 0)
        fprintf(stderr, "tz_show: byte %" PRIu64 " breaks TZ1-%" PRIu32 "\n", where->offset,
                where->rule);
    fprintf(stderr, "tz_show: %s: %s (%s)\n", what,
            where->reason ? where->reason : tz_status_text(status), tz_status_name(status));
    exit(1);
}

static void *allocate(uint64_t size)
{
    void *memory = size <= SIZE_MAX - 64 ? malloc((size_t)size + 1) : NULL;
    if (memory == NULL)
        die("malloc", "out of memory");
    return memory;
}

static void read_at(FILE *file, uint64_t offset, void *into, uint64_t size)
{
    if (fseeko(file, (off_t)offset, SEEK_SET) != 0 || fread(into, 1, (size_t)size, file) != size)
        die("read", "the file ends too early, or cannot be read");
}

/* Reads as many first bytes as the library needs: one read for most files, at most three. */
static tz_header *open_header(FILE *file)
{
    if (fseeko(file, 0, SEEK_END) != 0)
        die("seek", "the file is not seekable");
    const uint64_t file_size = (uint64_t)ftello(file);
    uint64_t needed = file_size < 1 << 20 ? file_size : 1 << 20;
    tz_header *header = NULL;
    tz_diagnostic where = {.struct_size = sizeof where};
    tz_status status;
    do {
        const uint64_t front_size = needed;
        void *front = allocate(front_size);
        read_at(file, 0, front, front_size);
        status = tz_header_open(front, (size_t)front_size, file_size, NULL, &header, &needed,
                                &where);
        free(front); /* the header has its own copy */
    } while (status == TZ_NEED_MORE);
    check(status, "open", &where);
    return header;
}

static void list(const tz_header *header)
{
    const tz_diagnostic nowhere = {.struct_size = sizeof nowhere};
    tz_header_info info = {.struct_size = sizeof info};
    check(tz_header_get(header, &info), "header", &nowhere);
    for (uint32_t index = 0; index < info.tensor_count; index++) {
        tz_tensor tensor = {.struct_size = sizeof tensor};
        check(tz_header_tensor(header, index, &tensor), "tensor", &nowhere);
        tz_dtype_info dtype = {.struct_size = sizeof dtype};
        const tz_status known = tz_dtype(tensor.dtype, &dtype);
        printf("%.*s %s [", (int)tensor.name_size, tensor.name, known == TZ_OK ? dtype.name : "?");
        for (uint32_t axis = 0; axis < tensor.rank; axis++)
            printf("%s%" PRIu64, axis ? ", " : "", tensor.shape[axis]);
        printf("] %" PRIu64 " bytes, %" PRIu64 " stored\n", tensor.decoded_size,
               tensor.stored_size);
    }
}

/* Returns the decoded bytes of a tensor, after checking each chunk's BLAKE3. The caller frees
 * them. */
static void *load(FILE *file, tz_header *header, uint32_t tensor)
{
    tz_diagnostic where = {.struct_size = sizeof where};
    tz_range range; /* of the tensor's chunk entries, if any have to be fetched */
    size_t count;
    check(tz_header_entry_ranges(header, &tensor, 1, 0, &range, 1, &count), "ranges", &where);
    if (count == 1) {
        void *entries = allocate(range.size);
        read_at(file, range.offset, entries, range.size);
        check(tz_header_put_entries(header, range.offset, entries, (size_t)range.size, &where),
              "chunk entries", &where);
        free(entries);
    }

    const tz_read_item item = {.struct_size = sizeof item, .tensor = tensor};
    tz_plan *plan;
    check(tz_plan_new(header, &item, 1, NULL, &plan, &where), "plan", &where);
    tz_plan_info info = {.struct_size = sizeof info};
    check(tz_plan_get(plan, &info), "plan", &where);
    /* One item has one allocation, or none if it is empty. Compressed chunks go to staging. */
    void *values = allocate(info.allocation_count ? tz_plan_allocations(plan)[0] : 0);
    unsigned char *staging = allocate(info.staging_size_max);
    for (uint32_t number = 0; number < info.request_count; number++) {
        const tz_request *request = &tz_plan_requests(plan)[number];
        const tz_segment *segment = &tz_plan_segments(plan)[request->segment_begin];
        uint64_t offset = request->offset;
        for (uint32_t left = request->segment_count; left > 0; left--, segment++) {
            unsigned char *base = segment->allocation == (uint32_t)TZ_TO_STAGING ? staging : values;
            if (segment->allocation != (uint32_t)TZ_TO_NOWHERE)
                read_at(file, offset, base + segment->position, segment->size);
            offset += segment->size;
        }
        uint64_t next = 0;
        check(tz_plan_process(plan, number, request->size, staging, &values, TZ_VERIFY_DIGEST,
                              &next, &where),
              "data", &where);
    }
    free(staging);
    tz_plan_free(plan);
    return values;
}

int main(int argument_count, char **arguments)
{
    if (argument_count != 2 && argument_count != 3)
        die("usage", "tz_show FILE [NAME]");
    FILE *file = fopen(arguments[1], "rb");
    if (file == NULL)
        die(arguments[1], "cannot be opened");
    tz_header *header = open_header(file);
    list(header);
    if (argument_count == 3) {
        const char *name = arguments[2];
        const tz_diagnostic nowhere = {.struct_size = sizeof nowhere};
        uint32_t index;
        check(tz_header_find(header, name, strlen(name), &index), name, &nowhere);
        tz_tensor tensor = {.struct_size = sizeof tensor};
        check(tz_header_tensor(header, index, &tensor), name, &nowhere);
        void *values = load(file, header, index);
        uint8_t digest[32];
        tz_blake3(values, (size_t)tensor.decoded_size, digest);
        printf("blake3:");
        for (int i = 0; i < 32; i++)
            printf("%02x", digest[i]);
        printf("\n");
        free(values);
        /* All chunks were right, so a difference is a bug of the writer or the decoder. */
        if (tensor.content_digest && memcmp(digest, tensor.content_digest, sizeof digest) != 0)
            die(name, "the values differ from the saved ones");
    }
    tz_header_free(header);
    fclose(file);
    return 0;
}
