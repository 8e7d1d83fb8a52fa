/* A double of libcuda.so.1 for hosts without a GPU: as much of the driver as the NCCL communicator uses. Streams are
 * threads, device and page-locked memory is ordinary memory that is kept apart in a list, so that a wrong pointer is an
 * error. FAKE_CUDA_DEVICES has the number of devices, CUDA_VISIBLE_DEVICES hides them as the driver does. */
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

int fake_is_device(const void *start, size_t length) { return in_block(start, length, 1); }

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
int cuCtxSetCurrent(void *context) { return context ? SUCCESS : INVALID_CONTEXT; }
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
};

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

/* Events. */

struct event { int recorded, reached; };

static void reach(void *argument) { __atomic_add_fetch(&((struct event *)argument)->reached, 1, __ATOMIC_RELEASE); }

int cuEventCreate(struct event **event, unsigned flags) {
    (void)flags;
    *event = calloc(1, sizeof **event);
    fake_count(1);
    return SUCCESS;
}
int cuEventDestroy_v2(struct event *event) { free(event); fake_count(-1); return SUCCESS; }
int cuEventRecord(struct event *event, void *stream) {
    event->recorded++;
    fake_stream_push(stream, reach, event);
    return SUCCESS;
}
int cuEventQuery(struct event *event) {
    return __atomic_load_n(&event->reached, __ATOMIC_ACQUIRE) == event->recorded ? SUCCESS : NOT_READY;
}
