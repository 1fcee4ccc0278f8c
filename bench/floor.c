/*
 * floor CONTROL_PATH: the lowest possible cost of a broker that speaks Baton's wire protocol (docs/reference/protocol.md).
 *
 * It accepts, puts {token, descriptor} on a lane, writes OFFER, reads ACK and closes its duplicate, in batches and on
 * one thread, for the same SDK that Baton's own broker serves. It has none of what makes a broker safe: no deadlines, no
 * fallback, no hold, no load, no metrics. Anything unexpected ends it with a message; its backends then redial without an
 * answer.
 *
 * Prints {"msg":"listening","port":N}, and {"msg":"registered","pid":N} for each backend. Exits with its parent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Baton's accepts per wake-up, and its listen backlog. */
#define BATCH 64
#define BACKLOG 4096
#define BACKENDS 256
/* Maximum un-ACKed offers per backend, more than a lane holds. A power of two. */
#define PENDING 1024
#define TOKEN 16
#define ULID 16
#define TOKEN_TTL_NS 5000000000ull
/* Bytes. Backends are not expected to send longer frames. */
#define INPUT 65536
#define LISTENER "web"

enum { HELLO = 1, WELCOME, HEARTBEAT = 7, STATS, OFFER = 0x10, ACK, NACK };

struct backend {
  int control;
  int lane;
  /* Kept open as Baton keeps it; never read here. */
  int lane_receive;
  uint64_t sequence;
  /* The duplicate of each offered connection, by sequence, until its ACK. */
  int pending[PENDING];
  uint8_t input[INPUT];
  size_t length;
};

static struct backend *backends[BACKENDS];
static int backend_count, turn;
static int poller, listener, control_listener;

static void die(const char *what) {
  if (errno) fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
  else fprintf(stderr, "floor: %s\n", what);
  exit(1);
}

static void check(int result, const char *what) {
  if (result < 0) die(what);
}

static void unexpected(const char *what) {
  errno = 0;
  die(what);
}

static void put(uint8_t *at, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++) at[i] = value >> (8 * i);
}

static uint64_t get(const uint8_t *at, int bytes) {
  uint64_t value = 0;
  for (int i = bytes - 1; i >= 0; i--) value = value << 8 | at[i];
  return value;
}

static uint64_t clock_ns(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* From the kernel's CSPRNG, in bulk: one system call per token would cost as much as accept4. */
static void random_bytes(uint8_t *to, size_t count) {
  static uint8_t pool[8192];
  static size_t used = sizeof pool;
  if (used + count > sizeof pool) {
    if (getrandom(pool, sizeof pool, 0) != sizeof pool) die("getrandom");
    used = 0;
  }
  memcpy(to, pool + used, count);
  used += count;
}

/* 48 bits of milliseconds, most significant first, and 80 random bits. */
static void ulid(uint8_t *to, uint64_t milliseconds) {
  for (int i = 0; i < 6; i++) to[i] = milliseconds >> (8 * (5 - i));
  random_bytes(to + 6, ULID - 6);
}

/* 26 characters of Crockford's base 32: 2 zero bits, then 128. */
static void new_ulid_text(char *to) {
  static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
  uint8_t id[ULID];
  ulid(id, clock_ns(CLOCK_REALTIME) / 1000000);
  for (int i = 0; i < 26; i++) {
    int value = 0;
    for (int bit = i * 5 - 2; bit < i * 5 + 3; bit++)
      value = value << 1 | (bit < 0 ? 0 : id[bit / 8] >> (7 - bit % 8) & 1);
    to[i] = digits[value];
  }
  to[26] = 0;
}

static void watch(int fd, void *tag) {
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = tag};
  check(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

/* Messages from here are short. Blocks while the buffer is full, so a backend that does not read is offered nothing. */
static void send_all(int fd, const uint8_t *bytes, size_t count) {
  while (count > 0) {
    ssize_t sent = send(fd, bytes, count, MSG_NOSIGNAL);
    check(sent, "send on control");
    bytes += sent;
    count -= sent;
  }
}

/* ---- a connection: accept, lane, OFFER, close on ACK ---- */

static struct mmsghdr messages[BATCH];
static struct iovec vectors[BATCH];
static uint8_t tokens[BATCH][TOKEN];
static union {
  struct cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int))];
} controls[BATCH];

/* Fields shared by all messages are written once. */
static void lay_out_messages(void) {
  for (int i = 0; i < BATCH; i++) {
    vectors[i] = (struct iovec){tokens[i], TOKEN};
    messages[i].msg_hdr = (struct msghdr){
        .msg_iov = &vectors[i], .msg_iovlen = 1, .msg_control = &controls[i], .msg_controllen = sizeof controls[i]};
    controls[i].header =
        (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  }
}

static void offer(struct backend *backend, const int *clients, int count) {
  static uint8_t frame[7 + BATCH * (8 + TOKEN + ULID + 8 + 1 + 1 + sizeof LISTENER + 2)];
  uint64_t deadline = clock_ns(CLOCK_MONOTONIC) + TOKEN_TTL_NS;
  uint64_t milliseconds = clock_ns(CLOCK_REALTIME) / 1000000;
  uint8_t *at = frame + 7;
  for (int i = 0; i < count; i++) {
    uint64_t sequence = ++backend->sequence;
    if (backend->pending[sequence % PENDING] != -1) unexpected("a backend does not answer");
    backend->pending[sequence % PENDING] = clients[i];
    random_bytes(tokens[i], TOKEN);
    memcpy(CMSG_DATA(&controls[i].header), &clients[i], sizeof(int));
    put(at, sequence, 8);
    memcpy(at + 8, tokens[i], TOKEN);
    ulid(at + 24, milliseconds);
    put(at + 40, deadline, 8);
    at[48] = 1;
    at[49] = sizeof LISTENER - 1;
    memcpy(at + 50, LISTENER, sizeof LISTENER - 1);
    at += 50 + sizeof LISTENER - 1;
    put(at, 0, 2);
    at += 2;
  }
  put(frame, at - frame - 4, 4);
  frame[4] = OFFER;
  put(frame + 5, count, 2);
  int sent = sendmmsg(backend->lane, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
  check(sent, "sendmmsg on a lane");
  if (sent < count) unexpected("a lane is full");
  send_all(backend->control, frame, at - frame);
}

/* One backend per wake-up, in turn, so that batches stay whole. */
static void accept_clients(void) {
  int clients[BATCH], count = 0;
  while (count < BATCH) {
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client >= 0) clients[count++] = client;
    else if (errno == EAGAIN) break;
    else if (errno != ECONNABORTED) die("accept4");
  }
  if (count == 0) return;
  if (backend_count == 0) unexpected("a client, and no backend");
  turn = (turn + 1) % backend_count;
  offer(backends[turn], clients, count);
}

static void acknowledged(struct backend *backend, const uint8_t *payload, size_t length) {
  size_t count = get(payload, 2);
  if (length != 2 + count * (8 + ULID)) unexpected("a malformed ACK");
  for (size_t i = 0; i < count; i++) {
    int *duplicate = &backend->pending[get(payload + 2 + i * (8 + ULID), 8) % PENDING];
    if (*duplicate == -1) unexpected("an ACK for what was not offered");
    close(*duplicate);
    *duplicate = -1;
  }
}

/* ---- a backend: HELLO, WELCOME, frames, end ---- */

static uint8_t *json_frame(uint8_t *frame, int type, size_t length) {
  put(frame, length + 1, 4);
  frame[4] = type;
  return frame + 5 + length;
}

/* Echoes the probe with `reply` changed; a backend's JSON has no spaces (JSON.stringify). */
static void heartbeat(struct backend *backend, const char *json) {
  const char *id = strstr(json, "\"id\":");
  if (id == NULL) unexpected("a malformed HEARTBEAT");
  if (strstr(json, "\"reply\":false") == NULL) return;
  uint8_t frame[128];
  int length = snprintf((char *)frame + 5, sizeof frame - 5, "{\"id\":%llu,\"reply\":true}", strtoull(id + 5, NULL, 10));
  send_all(backend->control, frame, json_frame(frame, HEARTBEAT, length) - frame);
}

static void lost(struct backend *backend) {
  for (int i = 0; i < backend_count; i++)
    if (backends[i] == backend) backends[i] = backends[--backend_count];
  close(backend->lane_receive);
  close(backend->lane);
  close(backend->control);
  for (int i = 0; i < PENDING; i++)
    if (backend->pending[i] != -1) unexpected("a backend has gone with connections");
  free(backend);
}

static void read_control(struct backend *backend) {
  ssize_t got = recv(backend->control, backend->input + backend->length, INPUT - backend->length, MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) return lost(backend);
  backend->length += got;
  uint8_t *at = backend->input, *end = at + backend->length;
  while (end - at >= 5) {
    size_t length = get(at, 4);
    if (length == 0 || length > INPUT - 4) unexpected("a frame of no good length");
    if ((size_t)(end - at) < 4 + length) break;
    uint8_t *payload = at + 5;
    if (at[4] == ACK) acknowledged(backend, payload, length - 1);
    else if (at[4] == NACK) unexpected("a NACK");
    else if (at[4] == HEARTBEAT) {
      char json[128] = {0};
      memcpy(json, payload, length - 1 < sizeof json ? length - 1 : sizeof json - 1);
      heartbeat(backend, json);
    }
    at = payload + length - 1;
  }
  backend->length = end - at;
  memmove(backend->input, at, backend->length);
}

/* WELCOME, with one end of a new lane. */
static void welcome(struct backend *backend, const char *service) {
  int pair[2];
  check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), "socketpair");
  backend->lane = pair[0];
  backend->lane_receive = pair[1];
  static int slot;
  char broker_id[27], backend_id[27];
  new_ulid_text(broker_id);
  new_ulid_text(backend_id);
  uint8_t frame[1024];
  int length = snprintf((char *)frame + 5, sizeof frame - 5,
                        "{\"protocol\":1,\"capabilities\":[],\"broker\":\"%s\",\"backend\":\"%s\",\"slot\":\"%s-%d\","
                        "\"service\":\"%s\",\"heartbeatInterval\":1000,\"tokenTtl\":5000,\"ackDeadline\":500}",
                        broker_id, backend_id, service, ++slot, service);
  size_t size = json_frame(frame, WELCOME, length) - frame;
  struct iovec vector = {frame, size};
  struct msghdr message = messages[0].msg_hdr;
  message.msg_iov = &vector;
  memcpy(CMSG_DATA(&controls[0].header), &pair[1], sizeof(int));
  if (sendmsg(backend->control, &message, MSG_NOSIGNAL) != (ssize_t)size) die("sendmsg of WELCOME");
}

/* Blocks: a backend sends HELLO as soon as it has connected. */
static void register_backend(void) {
  if (backend_count == BACKENDS) unexpected("too many backends");
  struct backend *backend = malloc(sizeof *backend);
  backend->sequence = backend->length = 0;
  for (int i = 0; i < PENDING; i++) backend->pending[i] = -1;
  backend->control = accept4(control_listener, NULL, NULL, SOCK_CLOEXEC);
  check(backend->control, "accept4 on control");
  uint8_t head[5];
  char json[4096] = {0};
  if (recv(backend->control, head, 5, MSG_WAITALL) != 5 || head[4] != HELLO) unexpected("no HELLO");
  size_t length = get(head, 4) - 1;
  if (length >= sizeof json) unexpected("a long HELLO");
  if (recv(backend->control, json, length, MSG_WAITALL) != (ssize_t)length) unexpected("half a HELLO");
  char *service = strstr(json, "\"service\":\""), *pid = strstr(json, "\"pid\":");
  if (service == NULL || pid == NULL) unexpected("a malformed HELLO");
  service += strlen("\"service\":\"");
  service[strcspn(service, "\"")] = 0;
  welcome(backend, service);
  backends[backend_count++] = backend;
  watch(backend->control, backend);
  printf("{\"msg\":\"registered\",\"pid\":%ld}\n", strtol(pid + strlen("\"pid\":"), NULL, 10));
}

/* ---- the process ---- */

static int listen_tcp(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  check(fd, "socket");
  /* Accepted sockets inherit these options, so none are set per connection. */
  check(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "TCP_NODELAY");
  check(bind(fd, (struct sockaddr *)&address, size), "bind");
  check(listen(fd, BACKLOG), "listen");
  check(getsockname(fd, (struct sockaddr *)&address, &size), "getsockname");
  printf("{\"msg\":\"listening\",\"port\":%d}\n", ntohs(address.sin_port));
  return fd;
}

static int listen_control(const char *path) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  check(fd, "socket");
  if (strlen(path) >= sizeof address.sun_path) unexpected("the path is too long");
  strcpy(address.sun_path, path);
  umask(0077);
  check(bind(fd, (struct sockaddr *)&address, sizeof address), path);
  check(listen(fd, BACKENDS), "listen on control");
  return fd;
}

int main(int count, char **arguments) {
  if (count != 2) unexpected("usage: floor CONTROL_PATH");
  setvbuf(stdout, NULL, _IOLBF, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  lay_out_messages();
  poller = epoll_create1(EPOLL_CLOEXEC);
  check(poller, "epoll_create1");
  control_listener = listen_control(arguments[1]);
  listener = listen_tcp();
  watch(control_listener, &control_listener);
  watch(listener, &listener);
  for (;;) {
    struct epoll_event events[BATCH];
    int ready = epoll_wait(poller, events, BATCH, -1);
    if (ready < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < ready; i++) {
      if (events[i].data.ptr == &listener) accept_clients();
      else if (events[i].data.ptr == &control_listener) register_backend();
      else read_control(events[i].data.ptr);
    }
  }
}
