/* A stand-in for VMware's libvixDiskLib, so that nbdkit's real vddk plugin runs in tests.
 *
 * It has the C ABI of VDDK 6.5 to 8 as the plugin uses it (x86-64), and reads disks from a folder:
 * "[DS] VM/disk.vmdk" of snapshot-7 is ROOT/@snapshot-7/DS/VM/disk-flat.vmdk, and without a snapshot
 * ROOT/DS/VM/disk-flat.vmdk. That is how tests/vcsim lays them out.
 *
 * LIBDIR/standin.conf has one KEY=VALUE a line and is read again whenever it changes:
 *
 *   root=DIR             the folder of disks
 *   log=FILE             control calls are appended there, and at Close what was read; no secrets
 *   user= password= thumbprint=   who may connect; empty is anybody
 *   host=NAME            the ESXi host that opened disks are said to be on
 *   latency_us=N         for each 64 KiB of each request, as NFC has it; requests overlap
 *   bandwidth=N          bytes a second of one session
 *   max_request=N        a longer read fails as vCenter fails it
 *   nfc_memory=N         bytes of reads under way in all sessions; more fail likewise
 *   max_sessions=N       open disks; one more is refused
 *   fail_connect=1 fail_open=1 fail_info=1 fail_alloc=1
 *   fail_read=SECTOR     reads of it fail
 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef uint64_t VixError;
enum {
    OK = 0, FAIL = 1, NO_MEMORY = 2, INVALID = 3, NO_FILE = 4, UNSUPPORTED = 6,
    NOT_AUTHENTIC = 18, CANNOT_CONNECT = 14009, ASYNC = 25000,
};
enum { SECTOR = 512, NFC_BUFFER = 64 << 10, WORKERS = 16 };

typedef void Log(const char *format, va_list args);
typedef void Completion(void *data, VixError error);

typedef struct {
    char *vmx_spec, *server, *thumbprint;
    uint64_t reserved1;
    int32_t credential_type, padding;
    char *user, *password;
    void *reserved2;
    uint32_t port, nfc_port;
    char reserved3[48];
    int32_t spec_type, reserved4;
} Params;
static_assert(offsetof(Params, credential_type) == 32, "ABI");
static_assert(offsetof(Params, user) == 40, "ABI");
static_assert(offsetof(Params, port) == 64, "ABI");
static_assert(offsetof(Params, spec_type) == 120 && sizeof(Params) == 128, "ABI");

typedef struct {
    uint32_t bios[3], physical[3];
    uint64_t capacity;
    uint32_t adapter, links;
    char *parent_hint, *uuid;
    uint32_t logical_sector, physical_sector;
} Info;
static_assert(sizeof(Info) == 64 && offsetof(Info, uuid) == 48, "ABI");

typedef struct { uint64_t offset, length; } Block;
typedef struct { uint32_t count; Block blocks[]; } BlockList;
static_assert(offsetof(BlockList, blocks) == 8, "ABI");

/* --- settings ------------------------------------------------------------------------------- */

typedef struct {
    char root[512], log[512], user[128], password[128], thumbprint[128], host[128];
    uint64_t latency_us, bandwidth, max_request, nfc_memory, max_sessions;
    uint64_t fail_connect, fail_open, fail_info, fail_alloc;
    int64_t fail_read;
} Settings;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static char settings_path[600];
static struct timespec settings_time;
static Settings settings;
static Log *say_debug, *say_warning;
static uint64_t bytes_in_flight, open_sessions;

static void set(const char *key, const char *value)
{
    static const struct { const char *key; size_t at, size; } texts[] = {
#define TEXT(name) { #name, offsetof(Settings, name), sizeof(settings.name) }
        TEXT(root), TEXT(log), TEXT(user), TEXT(password), TEXT(thumbprint), TEXT(host),
    };
    static const struct { const char *key; size_t at; } numbers[] = {
#define NUMBER(name) { #name, offsetof(Settings, name) }
        NUMBER(latency_us), NUMBER(bandwidth), NUMBER(max_request), NUMBER(nfc_memory),
        NUMBER(max_sessions), NUMBER(fail_connect), NUMBER(fail_open), NUMBER(fail_info),
        NUMBER(fail_alloc), NUMBER(fail_read),
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (strcmp(key, texts[i].key) == 0)
            snprintf((char *)&settings + texts[i].at, texts[i].size, "%s", value);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(key, numbers[i].key) == 0)
            *(int64_t *)((char *)&settings + numbers[i].at) = strtoll(value, NULL, 10);
}

static void read_settings(void)
{
    struct stat now;
    if (stat(settings_path, &now) != 0 ||
        (now.st_mtim.tv_sec == settings_time.tv_sec && now.st_mtim.tv_nsec == settings_time.tv_nsec))
        return;
    FILE *file = fopen(settings_path, "r");
    if (file == NULL)
        return;
    settings_time = now.st_mtim;
    memset(&settings, 0, sizeof settings);
    settings.fail_read = -1;
    char line[1024];
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = 0;
        char *value = strchr(line, '=');
        if (value == NULL)
            continue;
        *value++ = 0;
        set(line, value);
    }
    fclose(file);
}

static Settings current(void)
{
    pthread_mutex_lock(&mutex);
    read_settings();
    Settings copy = settings;
    pthread_mutex_unlock(&mutex);
    return copy;
}

static void note(const char *format, ...)
{
    Settings now = current();
    FILE *file = now.log[0] != 0 ? fopen(now.log, "a") : NULL;
    if (file == NULL)
        return;
    pthread_mutex_lock(&log_mutex);
    va_list args;
    va_start(args, format);
    fprintf(file, "%d ", (int)getpid());
    vfprintf(file, format, args);
    fputc('\n', file);
    va_end(args);
    fclose(file);
    pthread_mutex_unlock(&log_mutex);
}

/* Through a callback of nbdkit's, if it gave one. */
static void say(Log *callback, const char *format, ...)
{
    if (callback == NULL)
        return;
    va_list args;
    va_start(args, format);
    callback(format, args);
    va_end(args);
}

/* --- the library, its errors, connections --------------------------------------------------- */

VixError VixDiskLib_InitEx(uint32_t major, uint32_t minor, Log *debug, Log *warning, Log *panic,
                           const char *libdir, const char *config)
{
    (void)panic;
    snprintf(settings_path, sizeof settings_path, "%s/standin.conf", libdir != NULL ? libdir : ".");
    settings.fail_read = -1;
    say_debug = debug;
    say_warning = warning;
    say(debug, "VMware VixDiskLib (8.0.2) Release build-22388865\n");
    note("InitEx %u.%u config=%s", major, minor, config != NULL ? config : "");
    return OK;
}

void VixDiskLib_Exit(void) { note("Exit"); }

const char *VixDiskLib_ListTransportModes(void) { return "file:san:hotadd:nbdssl:nbd"; }

char *VixDiskLib_GetErrorText(VixError error, const char *locale)
{
    (void)locale;
    switch (error) {
    case OK: return strdup("The operation was successful");
    case NO_MEMORY: return strdup("Memory allocation failed. Out of memory.");
    case INVALID: return strdup("One of the parameters was invalid");
    case NO_FILE: return strdup("A file was not found");
    case UNSUPPORTED: return strdup("The operation is not supported");
    case NOT_AUTHENTIC:
        return strdup("Cannot connect to the host: Incorrect user name or password");
    case CANNOT_CONNECT: return strdup("The server refused connection");
    default: return strdup("Unknown error");
    }
}

void VixDiskLib_FreeErrorText(char *text) { free(text); }

Params *VixDiskLib_AllocateConnectParams(void) { return calloc(1, sizeof(Params)); }

/* The plugin of 1.42 allocates the structure itself, but not its strings with our malloc. */
void VixDiskLib_FreeConnectParams(Params *params) { free(params); }

typedef struct { char *snapshot; } Connection;

static bool differs(const char *wanted, const char *given)
{
    return wanted[0] != 0 && (given == NULL || strcmp(wanted, given) != 0);
}

VixError VixDiskLib_ConnectEx(const Params *params, char readonly, const char *snapshot,
                              const char *transports, void **out)
{
    Settings now = current();
    note("ConnectEx server=%s vm=%s user=%s thumbprint=%s readonly=%d snapshot=%s transports=%s",
         params->server ? params->server : "", params->vmx_spec ? params->vmx_spec : "",
         params->user ? params->user : "", params->thumbprint ? params->thumbprint : "", readonly,
         snapshot ? snapshot : "", transports ? transports : "");
    if (now.fail_connect)
        return CANNOT_CONNECT;
    if (now.thumbprint[0] != 0 &&
        (params->thumbprint == NULL || strcasecmp(now.thumbprint, params->thumbprint) != 0)) {
        say(say_warning, "SSLVerifyIsEnabled: thumbprint mismatch, peer has %s\n", now.thumbprint);
        return FAIL;
    }
    if (differs(now.user, params->user) || differs(now.password, params->password))
        return NOT_AUTHENTIC;
    Connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL)
        return NO_MEMORY;
    connection->snapshot = snapshot != NULL ? strdup(snapshot) : NULL;
    *out = connection;
    return OK;
}

VixError VixDiskLib_Disconnect(void *connection)
{
    note("Disconnect");
    free(((Connection *)connection)->snapshot);
    free(connection);
    return OK;
}

/* --- an open disk, and its workers ---------------------------------------------------------- */

typedef struct Request {
    struct Request *next;
    uint64_t sector, count;
    uint8_t *buffer;
    Completion *done;
    void *data;
    bool write;
} Request;

typedef struct {
    int fd;
    uint64_t capacity, reads, longest, pending;
    struct timespec free_at;
    pthread_mutex_t lock;
    pthread_cond_t work, idle;
    Request *first, **last;
    bool closing;
    pthread_t workers[WORKERS];
} Handle;

/* ROOT[/@SNAPSHOT]/DS/DIR/NAME-flat.vmdk of "[DS] DIR/NAME-000001.vmdk"; false if it is none. */
static bool flat_file(const Settings *now, const char *snapshot, const char *name, char *out, size_t size)
{
    const char *end = strstr(name, "] ");
    size_t length = strlen(name);
    if (name[0] != '[' || end == NULL || length < 5 || strcmp(name + length - 5, ".vmdk") != 0 ||
        strstr(name, "..") != NULL)
        return false;
    const char *path = end + 2;
    int stem = (int)(name + length - 5 - path);
    if (stem > 7 && path[stem - 7] == '-' && strspn(path + stem - 6, "0123456789") == 6)
        stem -= 7;
    bool has = snapshot != NULL && snapshot[0] != 0;
    snprintf(out, size, "%s%s%s/%.*s/%.*s-flat.vmdk", now->root, has ? "/@" : "", has ? snapshot : "",
             (int)(end - name - 1), name + 1, stem, path);
    return true;
}

static void sleep_until(const struct timespec *when)
{
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, when, NULL) == EINTR)
        ;
}

static void add(struct timespec *when, uint64_t nanoseconds)
{
    nanoseconds += (uint64_t)when->tv_nsec;
    when->tv_sec += (time_t)(nanoseconds / 1000000000);
    when->tv_nsec = (long)(nanoseconds % 1000000000);
}

static bool before(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec != b->tv_sec ? a->tv_sec < b->tv_sec : a->tv_nsec < b->tv_nsec;
}

/* Latency for each NFC buffer, and this session's turn on its line. */
static void take_time(Handle *handle, const Settings *now, uint64_t bytes)
{
    struct timespec start, when;
    clock_gettime(CLOCK_MONOTONIC, &start);
    when = start;
    add(&when, (bytes + NFC_BUFFER - 1) / NFC_BUFFER * now->latency_us * 1000);
    if (now->bandwidth != 0) {
        pthread_mutex_lock(&handle->lock);
        if (before(&handle->free_at, &start))
            handle->free_at = start;
        add(&handle->free_at, bytes * 1000000000 / now->bandwidth);
        if (before(&when, &handle->free_at))
            when = handle->free_at;
        pthread_mutex_unlock(&handle->lock);
    }
    if (before(&start, &when))
        sleep_until(&when);
}

/* Whether the server has memory for the read; it is given back by the caller. */
static bool take_memory(const Settings *now, uint64_t bytes)
{
    pthread_mutex_lock(&mutex);
    bytes_in_flight += bytes;
    bool enough = (now->max_request == 0 || bytes <= now->max_request) &&
                  (now->nfc_memory == 0 || bytes_in_flight <= now->nfc_memory);
    pthread_mutex_unlock(&mutex);
    if (!enough)
        say(say_warning, "[NFC ERROR] NfcFssrvrProcessErrorMsg: received NFC error 5 from server: "
            "Failed to allocate the requested %lu bytes\n", (unsigned long)bytes);
    return enough;
}

static VixError transfer(Handle *handle, const Request *request)
{
    Settings now = current();
    uint64_t bytes = request->count * SECTOR, done = 0;
    if (request->sector > handle->capacity || request->count > handle->capacity - request->sector)
        return INVALID;
    if (now.fail_read >= 0 && !request->write && request->sector <= (uint64_t)now.fail_read &&
        (uint64_t)now.fail_read < request->sector + request->count)
        return FAIL;
    bool enough = take_memory(&now, bytes);
    if (enough)
        take_time(handle, &now, bytes);
    while (enough && done < bytes) {
        off_t at = (off_t)(request->sector * SECTOR + done);
        ssize_t n = request->write ? pwrite(handle->fd, request->buffer + done, bytes - done, at)
                                   : pread(handle->fd, request->buffer + done, bytes - done, at);
        if (n <= 0)
            break;
        done += (uint64_t)n;
    }
    pthread_mutex_lock(&mutex);
    bytes_in_flight -= bytes;
    pthread_mutex_unlock(&mutex);
    return !enough ? NO_MEMORY : done == bytes ? OK : FAIL;
}

static void *work(void *data)
{
    Handle *handle = data;
    pthread_mutex_lock(&handle->lock);
    for (;;) {
        while (handle->first == NULL && !handle->closing)
            pthread_cond_wait(&handle->work, &handle->lock);
        if (handle->first == NULL)
            break;
        Request *request = handle->first;
        handle->first = request->next;
        if (handle->first == NULL)
            handle->last = &handle->first;
        pthread_mutex_unlock(&handle->lock);
        request->done(request->data, transfer(handle, request));
        free(request);
        pthread_mutex_lock(&handle->lock);
        if (--handle->pending == 0)
            pthread_cond_broadcast(&handle->idle);
    }
    pthread_mutex_unlock(&handle->lock);
    return NULL;
}

static bool take_session(const Settings *now)
{
    pthread_mutex_lock(&mutex);
    bool free = now->max_sessions == 0 || open_sessions < now->max_sessions;
    open_sessions += free;
    pthread_mutex_unlock(&mutex);
    return free;
}

VixError VixDiskLib_Open(void *connection, const char *name, uint32_t flags, void **out)
{
    Settings now = current();
    char path[1200];
    note("Open %s flags=%u", name, flags);
    if (now.fail_open)
        return FAIL;
    if (!flat_file(&now, ((Connection *)connection)->snapshot, name, path, sizeof path))
        return INVALID;
    if (!take_session(&now)) {
        say(say_warning, "[NFC ERROR] NfcFssrvrClientOpen: received unexpected message 4 from server\n");
        return CANNOT_CONNECT;
    }
    Handle *handle = calloc(1, sizeof *handle);
    handle->fd = open(path, (flags & 4 ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    struct stat stat;
    if (handle->fd < 0 || fstat(handle->fd, &stat) != 0) {
        say(say_warning, "DISKLIB-LINK  : Failed to open '%s': %s\n", name, strerror(errno));
        free(handle);
        pthread_mutex_lock(&mutex);
        open_sessions--;
        pthread_mutex_unlock(&mutex);
        return NO_FILE;
    }
    handle->capacity = (uint64_t)stat.st_size / SECTOR;
    handle->last = &handle->first;
    pthread_mutex_init(&handle->lock, NULL);
    pthread_cond_init(&handle->work, NULL);
    pthread_cond_init(&handle->idle, NULL);
    for (int i = 0; i < WORKERS; i++)
        if (pthread_create(&handle->workers[i], NULL, work, handle) != 0)
            abort();
    say(say_debug, "DISKLIB-LINK  : Opened 'vpxa-nfcssl://%s@%s:902' (0xa): custom, %lu sectors.\n",
        name, now.host[0] != 0 ? now.host : "esx.example.com", (unsigned long)handle->capacity);
    *out = handle;
    return OK;
}

static VixError submit(Handle *handle, Request request)
{
    Request *queued = malloc(sizeof *queued);
    if (queued == NULL)
        return NO_MEMORY;
    *queued = request;
    pthread_mutex_lock(&handle->lock);
    *handle->last = queued;
    handle->last = &queued->next;
    handle->pending++;
    if (!request.write) {
        handle->reads++;
        if (request.count * SECTOR > handle->longest)
            handle->longest = request.count * SECTOR;
    }
    pthread_cond_signal(&handle->work);
    pthread_mutex_unlock(&handle->lock);
    return ASYNC;
}

VixError VixDiskLib_ReadAsync(void *handle, uint64_t sector, uint64_t count, uint8_t *buffer,
                              Completion *done, void *data)
{
    return submit(handle, (Request){ NULL, sector, count, buffer, done, data, false });
}

VixError VixDiskLib_WriteAsync(void *handle, uint64_t sector, uint64_t count, const uint8_t *buffer,
                               Completion *done, void *data)
{
    return submit(handle, (Request){ NULL, sector, count, (uint8_t *)buffer, done, data, true });
}

VixError VixDiskLib_Wait(void *data)
{
    Handle *handle = data;
    pthread_mutex_lock(&handle->lock);
    while (handle->pending != 0)
        pthread_cond_wait(&handle->idle, &handle->lock);
    pthread_mutex_unlock(&handle->lock);
    return OK;
}

VixError VixDiskLib_Close(void *data)
{
    Handle *handle = data;
    VixDiskLib_Wait(handle);
    pthread_mutex_lock(&handle->lock);
    handle->closing = true;
    pthread_cond_broadcast(&handle->work);
    pthread_mutex_unlock(&handle->lock);
    for (int i = 0; i < WORKERS; i++)
        pthread_join(handle->workers[i], NULL);
    note("Close reads=%lu longest=%lu", (unsigned long)handle->reads, (unsigned long)handle->longest);
    pthread_mutex_lock(&mutex);
    open_sessions--;
    pthread_mutex_unlock(&mutex);
    close(handle->fd);
    free(handle);
    return OK;
}

VixError VixDiskLib_Read(void *handle, uint64_t sector, uint64_t count, uint8_t *buffer)
{
    return transfer(handle, &(Request){ NULL, sector, count, buffer, NULL, NULL, false });
}

VixError VixDiskLib_Write(void *handle, uint64_t sector, uint64_t count, const uint8_t *buffer)
{
    return transfer(handle, &(Request){ NULL, sector, count, (uint8_t *)buffer, NULL, NULL, true });
}

VixError VixDiskLib_Flush(void *handle)
{
    return fdatasync(((Handle *)handle)->fd) == 0 ? OK : FAIL;
}

VixError VixDiskLib_Create(void *connection, const char *path, const void *parameters, void *progress,
                           void *data)
{
    (void)connection, (void)path, (void)parameters, (void)progress, (void)data;
    return UNSUPPORTED;
}

const char *VixDiskLib_GetTransportMode(void *handle)
{
    (void)handle;
    return "nbdssl";
}

VixError VixDiskLib_GetInfo(void *handle, Info **out)
{
    if (current().fail_info)
        return FAIL;
    Info *info = calloc(1, sizeof *info);
    if (info == NULL)
        return NO_MEMORY;
    info->capacity = ((Handle *)handle)->capacity;
    info->adapter = 4;
    info->links = 1;
    info->logical_sector = SECTOR;
    *out = info;
    return OK;
}

void VixDiskLib_FreeInfo(Info *info) { free(info); }

/* --- what is allocated ---------------------------------------------------------------------- */

VixError VixDiskLib_QueryAllocatedBlocks(void *data, uint64_t start, uint64_t count, uint64_t chunk,
                                         BlockList **out)
{
    const Handle *handle = data;
    if (current().fail_alloc)
        return UNSUPPORTED;
    /* The real one refuses as well what lies past the end, by even one sector. */
    if (chunk == 0 || start > handle->capacity || count > handle->capacity - start)
        return INVALID;
    uint64_t most = count / chunk + 2;
    BlockList *list = calloc(1, sizeof *list + most * sizeof(Block));
    if (list == NULL)
        return NO_MEMORY;
    off_t end = (off_t)((start + count) * SECTOR), at = (off_t)(start * SECTOR);
    while (at < end) {
        off_t data_at = lseek(handle->fd, at, SEEK_DATA);
        if (data_at < 0 || data_at >= end)
            break;
        off_t hole = lseek(handle->fd, data_at, SEEK_HOLE);
        uint64_t from = (uint64_t)data_at / SECTOR / chunk * chunk;
        uint64_t to = ((uint64_t)hole / SECTOR + chunk - 1) / chunk * chunk;
        from = from < start ? start : from;
        to = to > start + count ? start + count : to;
        Block *last = list->count != 0 ? &list->blocks[list->count - 1] : NULL;
        if (last != NULL && from <= last->offset + last->length)
            last->length = to - last->offset;
        else
            list->blocks[list->count++] = (Block){ from, to - from };
        at = (off_t)(to * SECTOR);
    }
    *out = list;
    return OK;
}

VixError VixDiskLib_FreeBlockList(BlockList *list)
{
    free(list);
    return OK;
}
