/* A double of libcuda.so.1 for hosts without a GPU: as much of the driver as the NCCL communicator uses. Streams are
 * threads, device and page-locked memory is ordinary memory that is kept apart in a list, so that a wrong pointer is an
 * error. FAKE_CUDA_DEVICES has the number of devices, CUDA_VISIBLE_DEVICES hides them as the driver does.
 *
 * The default stream is the calling thread itself, which computes on the spot: a mark on it is reached at once, and it waits
 * for an event by waiting. So who forgets to wait reads what has not come yet. Memory that was not made here is taken for
 * the device's, as if libtorch had it there; FAKE_CUDA_POINTERS=host says that it is the host's. */
#define _GNU_SOURCE
#include "fake_cuda.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID = 1, NO_DEVICE = 100, INVALID_CONTEXT = 201, NOT_READY = 600 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

struct block { char *start; size_t length; int is_device; struct block *next; };
static struct block *blocks;
static int living, contexts;

void fake_log(const char *format, ...) {
    const char *path = getenv("FAKE_CUDA_LOG");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (!file) return;
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    fprintf(file, "%s\n", line);
    fclose(file);
}

void fake_count(int change) {
    pthread_mutex_lock(&lock);
    living += change;
    pthread_mutex_unlock(&lock);
}

static int in_block(const void *start, size_t length, int is_device) {
    const char *from = start;
    int found = 0;
    pthread_mutex_lock(&lock);
    for (struct block *block = blocks; block; block = block->next)
        found |= block->is_device == is_device && from >= block->start
            && from + length <= block->start + block->length;
    pthread_mutex_unlock(&lock);
    return found;
}

static int touches_host_block(const char *start, size_t length) {
    int found = 0;
    pthread_mutex_lock(&lock);
    for (struct block *block = blocks; block; block = block->next)
        found |= !block->is_device && start < block->start + block->length && start + length > block->start;
    pthread_mutex_unlock(&lock);
    return found;
}

int fake_is_foreign(const void *start, size_t length) {
    const char *pointers = getenv("FAKE_CUDA_POINTERS");
    return !in_block(start, length, 1) && !touches_host_block(start, length)
        && !(pointers && !strcmp(pointers, "host"));
}

int fake_is_device(const void *start, size_t length) {
    return in_block(start, length, 1) || fake_is_foreign(start, length);
}

static void *take(size_t length, int is_device) {
    struct block *block = malloc(sizeof *block);
    char *start = NULL;
    if (!contexts || posix_memalign((void **)&start, 4096, length ? length : 1)) return NULL;
    /* What was not written must not look like an answer. */
    memset(start, 0xa5, length);
    pthread_mutex_lock(&lock);
    *block = (struct block){ start, length, is_device, blocks };
    blocks = block;
    living++;
    pthread_mutex_unlock(&lock);
    return start;
}

static int give_back(void *start, int is_device) {
    int result = INVALID;
    pthread_mutex_lock(&lock);
    for (struct block **at = &blocks; *at; at = &(*at)->next) {
        if ((*at)->start != start || (*at)->is_device != is_device) continue;
        struct block *gone = *at;
        *at = gone->next;
        free(gone->start);
        free(gone);
        living--;
        result = SUCCESS;
        break;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

/* Devices. */

static int visible[64], devices = -1;

int cuInit(unsigned flags) {
    (void)flags;
    const char *all = getenv("FAKE_CUDA_DEVICES"), *shown = getenv("CUDA_VISIBLE_DEVICES");
    const char *fails = getenv("FAKE_CUDA_INIT");
    int count = all ? atoi(all) : 1;
    if (fails) return atoi(fails);
    devices = 0;
    if (!shown)
        for (; devices < count; devices++) visible[devices] = devices;
    else
        for (const char *at = shown; *at && devices < 64; at += strspn(at, ",")) {
            char *end;
            long number = strtol(at, &end, 10);
            /* The driver stops at the first entry that it does not know. */
            if (end == at || number < 0 || number >= count) break;
            visible[devices++] = (int)number;
            at = end;
        }
    return devices ? SUCCESS : NO_DEVICE;
}

int cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cuDeviceGetCount(int *count) { *count = devices; return SUCCESS; }
int cuDeviceGet(int *device, int number) {
    *device = number;
    return number >= 0 && number < devices ? SUCCESS : INVALID;
}
int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, (size_t)length, "double %d", visible[device]);
    return SUCCESS;
}
int cuDeviceGetUuid_v2(char *uuid, int device) {
    memset(uuid, 0, 16);
    uuid[15] = (char)visible[device];
    return SUCCESS;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = (size_t)1 << 33; return SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? 9 : 0;
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    contexts++;
    *context = &visible[device];
    return SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    (void)device;
    contexts--;
    fake_log("released with %d left", living);
    return SUCCESS;
}
/* Each thread's own, with what is under it. */
static __thread void *current[8];
static __thread int depth;
static int has_context(void) { return current[depth] != NULL; }
int cuCtxSetCurrent(void *context) {
    current[depth] = context;
    return context ? SUCCESS : INVALID_CONTEXT;
}
int cuCtxPushCurrent_v2(void *context) {
    if (!context || depth == 7) return INVALID_CONTEXT;
    current[++depth] = context;
    return SUCCESS;
}
int cuCtxPopCurrent_v2(void **context) {
    if (!depth) return INVALID_CONTEXT;
    *context = current[depth--];
    return SUCCESS;
}
int cuPointerGetAttribute(void *answer, int attribute, const void *address) {
    if (!has_context()) return INVALID_CONTEXT;
    int is_host = touches_host_block(address, 1);
    if (!is_host && !fake_is_device(address, 1)) return INVALID;
    if (attribute == 2) *(unsigned *)answer = is_host ? 1 : 2;
    /* The numbers of devices are theirs among those that are visible. */
    else if (attribute == 9) *(int *)answer = (int)((int *)current[depth] - visible);
    else return INVALID;
    return SUCCESS;
}
int cuGetErrorName(int error, const char **text) { (void)error; *text = "FAKE_ERROR"; return SUCCESS; }
int cuGetErrorString(int error, const char **text) {
    *text = error == NO_DEVICE ? "no CUDA-capable device is detected" : "an error of the double";
    return SUCCESS;
}

int cuMemAlloc_v2(void **start, size_t length) { return (*start = take(length, 1)) ? SUCCESS : 2; }
int cuMemFree_v2(void *start) { return give_back(start, 1); }
int cuMemHostAlloc(void **start, size_t length, unsigned flags) {
    (void)flags;
    return (*start = take(length, 0)) ? SUCCESS : 2;
}
int cuMemFreeHost(void *start) { return give_back(start, 0); }

/* Streams. */

struct item { void (*work)(void *); void *argument; struct item *next; };
struct stream {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct item *first, **last;
    int is_ending;
    /* Work on it that is put there next begins after something on the default stream. */
    int is_behind_default;
};
/* The default stream, as CU_STREAM_LEGACY names it and as nothing does. */
static int is_default(const void *stream) { return (uintptr_t)stream <= 1; }

int fake_stream_is_behind_default(void *stream) {
    return __atomic_exchange_n(&((struct stream *)stream)->is_behind_default, 0, __ATOMIC_ACQ_REL);
}

static void *serve(void *argument) {
    struct stream *stream = argument;
    for (;;) {
        pthread_mutex_lock(&stream->lock);
        while (!stream->first && !stream->is_ending) pthread_cond_wait(&stream->changed, &stream->lock);
        struct item *item = stream->first;
        if (item && !(stream->first = item->next)) stream->last = &stream->first;
        pthread_mutex_unlock(&stream->lock);
        if (!item) return NULL;
        item->work(item->argument);
        free(item);
    }
}

int cuStreamCreate(struct stream **made, unsigned flags) {
    (void)flags;
    struct stream *stream = calloc(1, sizeof *stream);
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, NULL);
    stream->last = &stream->first;
    pthread_create(&stream->thread, NULL, serve, stream);
    fake_count(1);
    *made = stream;
    return SUCCESS;
}

int cuStreamDestroy_v2(struct stream *stream) {
    pthread_mutex_lock(&stream->lock);
    stream->is_ending = 1;
    pthread_cond_signal(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    pthread_join(stream->thread, NULL);
    free(stream);
    fake_count(-1);
    return SUCCESS;
}

void fake_stream_push(void *to, void (*work)(void *), void *argument) {
    struct stream *stream = to;
    struct item *item = malloc(sizeof *item);
    *item = (struct item){ work, argument, NULL };
    pthread_mutex_lock(&stream->lock);
    *stream->last = item;
    stream->last = &item->next;
    pthread_cond_signal(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

struct copy { void *to; const void *from; size_t length; };

static void copy(void *argument) {
    struct copy *copy = argument;
    memcpy(copy->to, copy->from, copy->length);
    free(copy);
}

static int push_copy(void *to, const void *from, size_t length, void *stream, int is_right) {
    if (!is_right) return INVALID;
    struct copy *asked = malloc(sizeof *asked);
    *asked = (struct copy){ to, from, length };
    fake_stream_push(stream, copy, asked);
    return SUCCESS;
}

int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t length, void *stream) {
    return push_copy(to, from, length, stream, in_block(to, length, 1) && in_block(from, length, 0));
}
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t length, void *stream) {
    return push_copy(to, from, length, stream, in_block(to, length, 0) && in_block(from, length, 1));
}

int cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t length, void *stream) {
    if (!has_context()) return INVALID_CONTEXT;
    if (!is_default(stream) || !fake_is_device(to, length) || !fake_is_device(from, length)) return INVALID;
    memcpy(to, from, length);
    return SUCCESS;
}

/* Events. One that was given up stays as long as a stream is to wait for it. */

struct event { int recorded, reached, holders, is_of_default; };
struct waiting { struct event *event; int until; };

static int reached(const struct event *event) { return __atomic_load_n(&event->reached, __ATOMIC_ACQUIRE); }
static void hold(struct event *event) { __atomic_add_fetch(&event->holders, 1, __ATOMIC_ACQ_REL); }
static void let_go(struct event *event) {
    if (__atomic_sub_fetch(&event->holders, 1, __ATOMIC_ACQ_REL) == 0) free(event);
}
static void reach(void *argument) {
    __atomic_add_fetch(&((struct event *)argument)->reached, 1, __ATOMIC_RELEASE);
    let_go(argument);
}
static void wait_until_reached(void *argument) {
    struct waiting *waiting = argument;
    for (int spins = 0; reached(waiting->event) < waiting->until; spins++) usleep(spins < 50 ? 1 : 50);
    let_go(waiting->event);
    free(waiting);
}

int cuEventCreate(struct event **event, unsigned flags) {
    (void)flags;
    if (!has_context()) return INVALID_CONTEXT;
    *event = calloc(1, sizeof **event);
    (*event)->holders = 1;
    fake_count(1);
    return SUCCESS;
}
int cuEventDestroy_v2(struct event *event) {
    let_go(event);
    fake_count(-1);
    return SUCCESS;
}
int cuEventRecord(struct event *event, void *stream) {
    event->recorded++;
    event->is_of_default = is_default(stream);
    hold(event);
    if (!is_default(stream)) fake_stream_push(stream, reach, event);
    else if (has_context()) reach(event);
    else return INVALID_CONTEXT;
    return SUCCESS;
}
int cuEventQuery(struct event *event) { return reached(event) == event->recorded ? SUCCESS : NOT_READY; }
int cuStreamWaitEvent(void *stream, struct event *event, unsigned flags) {
    if (flags) return INVALID;
    struct waiting *waiting = malloc(sizeof *waiting);
    *waiting = (struct waiting){ event, event->recorded };
    hold(event);
    if (!is_default(stream)) {
        if (event->is_of_default)
            __atomic_store_n(&((struct stream *)stream)->is_behind_default, 1, __ATOMIC_RELEASE);
        fake_stream_push(stream, wait_until_reached, waiting);
    } else if (has_context()) wait_until_reached(waiting);
    else return INVALID_CONTEXT;
    return SUCCESS;
}
