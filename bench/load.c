/*
 * Clients that ab and wrk cannot simulate. One JSON object on stdout; times in microseconds, from CLOCK_MONOTONIC.
 *
 *   load latency PORT COUNT SECONDS
 *     One connection at a time, one request each: from connect() to the first byte of the response.
 *     {"count":N,"p50":..,"p99":..,"max":..}
 *
 *   load paced PORT KEPT REQUESTS_PER_SECOND CONNECTIONS_PER_SECOND LEAD SECONDS
 *     An open loop. Requests on KEPT keep-alive connections in turn, and new connections with one request each, both on a
 *     schedule that does not wait for responses. A response's time runs from the moment its request was due, so a server
 *     that pauses is charged for all requests that were due meanwhile. Requests due in the first LEAD seconds
 *     are not counted.
 *     {"kept":{"count":N,"failed":N,"p50":..,"p99":..,"max":..},"fresh":{...}}
 *
 *   load hello PORT COUNT CONCURRENCY FILE
 *     COUNT new connections, CONCURRENCY at a time. Each sends the bytes of FILE, and reads until the server closes.
 *     {"count":N,"failed":N,"seconds":..}  failed: nothing was read
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
/* A response's head; the app's has about 150 bytes. */
#define HEAD 2048
/* How long to wait for responses after the last request was due, in ns. */
#define ANSWER_TIMEOUT (10 * SECOND)

static const char keep_request[] = "GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
static const char close_request[] = "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";

static struct sockaddr_in server = {.sin_family = AF_INET};

static void die(const char *what) {
  perror(what);
  exit(1);
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * SECOND + time.tv_nsec;
}

/* ---- latencies ---- */

struct latencies {
  uint64_t *nanoseconds;
  size_t count, room;
  size_t failed;
};

static void record(struct latencies *all, uint64_t nanoseconds) {
  if (all->count == all->room) {
    all->room = all->room ? all->room * 2 : 4096;
    all->nanoseconds = realloc(all->nanoseconds, all->room * sizeof *all->nanoseconds);
    if (all->nanoseconds == NULL) die("realloc");
  }
  all->nanoseconds[all->count++] = nanoseconds;
}

static int ascending(const void *a, const void *b) {
  uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
  return (left > right) - (left < right);
}

static double at(const struct latencies *all, double share) {
  if (all->count == 0) return 0;
  size_t index = all->count * share;
  return all->nanoseconds[index < all->count ? index : all->count - 1] / 1e3;
}

static void print(struct latencies *all) {
  qsort(all->nanoseconds, all->count, sizeof *all->nanoseconds, ascending);
  printf("{\"count\":%zu,\"failed\":%zu,\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f}", all->count, all->failed, at(all, 0.5),
         at(all, 0.99), at(all, 1));
}

/* ---- one connection at a time ---- */

static void latency(size_t count, uint64_t seconds) {
  struct latencies all = {0};
  uint64_t end = now() + seconds * SECOND;
  char buffer[16384];
  for (size_t number = 0; number < count && now() < end; number++) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    uint64_t begun = now();
    if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0) die("connect");
    if (send(fd, close_request, sizeof close_request - 1, MSG_NOSIGNAL) < 0) die("send");
    ssize_t got = recv(fd, buffer, sizeof buffer, 0);
    uint64_t took = now() - begun;
    if (got < 12 || memcmp(buffer + 9, "200", 3) != 0) all.failed++;
    else record(&all, took);
    /* The server closes first, so no port on this side is left in TIME_WAIT. */
    while (got > 0) got = recv(fd, buffer, sizeof buffer, 0);
    close(fd);
  }
  print(&all);
}

/* ---- the open loop ---- */

struct connection {
  int fd;
  int is_kept;
  int is_waiting;
  /* Due time of the request in flight; for a kept connection, of the next one. */
  uint64_t due, next;
  /* Kept connections: requests that are due but wait for the response before them. */
  size_t owed;
  char head[HEAD];
  size_t head_length;
  /* Bytes left of the body; -1 while the head is incomplete. */
  ssize_t left;
};

static int poller;
static uint64_t counted_from;
static struct latencies kept, fresh;
static size_t open_answers;
/* Between two requests on one kept connection. */
static uint64_t kept_interval;

static int dial(int flags) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0), on = 1;
  if (fd < 0) die("socket");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS) die("connect");
  return fd;
}

static void watch(struct connection *connection, int operation, uint32_t events) {
  struct epoll_event event = {.events = events, .data.ptr = connection};
  if (epoll_ctl(poller, operation, connection->fd, &event) < 0) die("epoll_ctl");
}

/* Fresh connections are closed by the server, before or after the response; a kept one should never be closed. */
static void ended(struct connection *connection) {
  if (connection->is_kept) {
    fprintf(stderr, "load: a keep-alive connection has ended\n");
    exit(1);
  }
  if (connection->is_waiting) {
    open_answers--;
    if (connection->due >= counted_from) fresh.failed++;
  }
  close(connection->fd);
  free(connection);
}

static int ask(struct connection *connection, const char *request, size_t length) {
  connection->head_length = 0;
  connection->left = -1;
  return send(connection->fd, request, length, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)length;
}

static void ask_kept(struct connection *connection) {
  connection->due = connection->next;
  connection->next += kept_interval;
  connection->owed--;
  connection->is_waiting = 1;
  open_answers++;
  if (!ask(connection, keep_request, sizeof keep_request - 1)) ended(connection);
}

/* Parses the head once it is complete; 0 if it is not a valid 200 response. */
static int read_head(struct connection *connection, size_t *body) {
  connection->head[connection->head_length] = 0;
  char *end = strstr(connection->head, "\r\n\r\n");
  if (end == NULL) return connection->head_length < HEAD - 1;
  char *length = strcasestr(connection->head, "\r\ncontent-length:");
  if (memcmp(connection->head + 9, "200", 3) != 0 || length == NULL || length > end) return 0;
  connection->left = strtol(length + strlen("\r\ncontent-length:"), NULL, 10);
  *body = connection->head_length - (end + 4 - connection->head);
  return 1;
}

static void readable(struct connection *connection) {
  char buffer[16384];
  ssize_t got = recv(connection->fd, buffer, sizeof buffer, MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN) return;
  /* The server's close completes a fresh connection. */
  if (got <= 0 || !connection->is_waiting) return ended(connection);
  size_t body = got;
  if (connection->left < 0) {
    size_t room = HEAD - 1 - connection->head_length;
    size_t taken = (size_t)got < room ? (size_t)got : room;
    memcpy(connection->head + connection->head_length, buffer, taken);
    connection->head_length += taken;
    if (!read_head(connection, &body)) return ended(connection);
    if (connection->left < 0) return;
    body += got - taken;
  }
  connection->left -= body;
  if (connection->left > 0) return;
  connection->is_waiting = 0;
  open_answers--;
  if (connection->due >= counted_from)
    record(connection->is_kept ? &kept : &fresh, now() - connection->due);
  if (connection->owed > 0) ask_kept(connection);
}

static void dial_fresh(uint64_t due) {
  struct connection *connection = malloc(sizeof *connection);
  if (connection == NULL) die("malloc");
  *connection = (struct connection){.due = due, .is_waiting = 1, .fd = dial(SOCK_NONBLOCK)};
  open_answers++;
  watch(connection, EPOLL_CTL_ADD, EPOLLOUT);
}

static void paced(size_t kept_count, uint64_t requests, uint64_t connections, double lead, double seconds) {
  poller = epoll_create1(EPOLL_CLOEXEC);
  int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (poller < 0 || timer < 0) die("epoll_create1, timerfd_create");
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event) < 0) die("epoll_ctl");
  /* Otherwise timers may be 50 us late (prctl(2)). */
  prctl(PR_SET_TIMERSLACK, 1);

  struct connection *all = calloc(kept_count, sizeof *all);
  for (size_t i = 0; i < kept_count; i++) {
    all[i].fd = dial(0);
    all[i].is_kept = 1;
    watch(&all[i], EPOLL_CTL_ADD, EPOLLIN);
  }
  uint64_t start = now() + SECOND / 100;
  uint64_t last_due = start + (uint64_t)((lead + seconds) * SECOND);
  counted_from = start + (uint64_t)(lead * SECOND);
  kept_interval = SECOND * kept_count / requests;
  for (size_t i = 0; i < kept_count; i++) all[i].next = start + i * (SECOND / requests);
  uint64_t asked = 0, dialled = 0;
  for (;;) {
    uint64_t time = now();
    uint64_t next_request, next_connection;
    while ((next_request = start + asked * SECOND / requests) <= time && next_request < last_due) {
      struct connection *connection = &all[asked++ % kept_count];
      connection->owed++;
      if (!connection->is_waiting) ask_kept(connection);
    }
    while ((next_connection = start + dialled * SECOND / connections) <= time && next_connection < last_due) {
      dial_fresh(next_connection);
      dialled++;
    }
    if (time >= last_due && (open_answers == 0 || time >= last_due + ANSWER_TIMEOUT)) break;
    uint64_t wake = next_request < next_connection ? next_request : next_connection;
    if (time >= last_due) wake = time + SECOND / 100;
    struct itimerspec at = {.it_value = {.tv_sec = wake / SECOND, .tv_nsec = wake % SECOND}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
    struct epoll_event events[256];
    int ready = epoll_wait(poller, events, 256, -1);
    if (ready < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < ready; i++) {
      struct connection *connection = events[i].data.ptr;
      if (connection == NULL) {
        uint64_t expirations;
        if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN) die("read of a timer");
      } else if (events[i].events & EPOLLOUT && !(events[i].events & (EPOLLERR | EPOLLHUP))) {
        if (!ask(connection, close_request, sizeof close_request - 1)) ended(connection);
        else watch(connection, EPOLL_CTL_MOD, EPOLLIN);
      } else readable(connection);
    }
  }
  /* Unanswered requests, and those that could not be sent because of them. */
  fresh.failed += open_answers;
  for (size_t i = 0; i < kept_count; i++) {
    kept.failed += all[i].is_waiting + all[i].owed;
    fresh.failed -= all[i].is_waiting;
  }
  printf("{\"kept\":");
  print(&kept);
  printf(",\"fresh\":");
  print(&fresh);
  printf("}");
}

/* ---- first bytes from a file ---- */

struct greeting {
  int fd, has_answer;
};

static void greet(struct greeting *greeting) {
  *greeting = (struct greeting){.fd = dial(SOCK_NONBLOCK)};
  struct epoll_event event = {.events = EPOLLOUT, .data.ptr = greeting};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, greeting->fd, &event) < 0) die("epoll_ctl");
}

static void hello(size_t count, size_t concurrency, const char *path) {
  char bytes[16384], answer[16384];
  FILE *file = fopen(path, "rb");
  if (file == NULL) die("fopen");
  size_t length = fread(bytes, 1, sizeof bytes, file);
  fclose(file);
  poller = epoll_create1(EPOLL_CLOEXEC);
  struct greeting *all = calloc(concurrency, sizeof *all);
  if (poller < 0 || all == NULL) die("epoll_create1, calloc");
  size_t begun = 0, over = 0, failed = 0;
  uint64_t start = now();
  while (begun < concurrency && begun < count) greet(&all[begun++]);
  while (over < count) {
    struct epoll_event events[256];
    int ready = epoll_wait(poller, events, 256, 30000);
    if (ready == 0) break;
    if (ready < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < ready; i++) {
      struct greeting *greeting = events[i].data.ptr;
      if (events[i].events & EPOLLOUT && !(events[i].events & (EPOLLERR | EPOLLHUP))) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = greeting};
        if (send(greeting->fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length &&
            epoll_ctl(poller, EPOLL_CTL_MOD, greeting->fd, &event) == 0)
          continue;
      } else {
        ssize_t got = recv(greeting->fd, answer, sizeof answer, 0);
        if (got > 0) greeting->has_answer = 1;
        if (got > 0 || (got < 0 && errno == EAGAIN)) continue;
      }
      failed += !greeting->has_answer;
      over++;
      close(greeting->fd);
      if (begun < count) {
        begun++;
        greet(greeting);
      }
    }
  }
  printf("{\"count\":%zu,\"failed\":%zu,\"seconds\":%.6f}", over, failed + count - over, (now() - start) / 1e9);
}

int main(int count, char **arguments) {
  server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (count > 2) server.sin_port = htons(atoi(arguments[2]));
  if (count == 5 && strcmp(arguments[1], "latency") == 0) latency(atol(arguments[3]), atol(arguments[4]));
  else if (count == 8 && strcmp(arguments[1], "paced") == 0)
    paced(atol(arguments[3]), atol(arguments[4]), atol(arguments[5]), atof(arguments[6]), atof(arguments[7]));
  else if (count == 6 && strcmp(arguments[1], "hello") == 0)
    hello(atol(arguments[3]), atol(arguments[4]), arguments[5]);
  else {
    fprintf(stderr, "usage: load latency PORT COUNT SECONDS\n"
                    "       load paced PORT KEPT REQUESTS_PER_SECOND CONNECTIONS_PER_SECOND LEAD SECONDS\n"
                    "       load hello PORT COUNT CONCURRENCY FILE\n");
    return 2;
  }
  printf("\n");
}
