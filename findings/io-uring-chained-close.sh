#!/usr/bin/env bash
# io_uring: a close that was sent to a kernel worker (IOSQE_ASYNC) blocks the submitting thread, if it is chained behind
# another request for the same descriptor.
#
# Expected: with IOSQE_ASYNC on every request of a chain, whatever a close has to wait for (SO_LINGER, a FUSE or NFS
#   flush, descriptors in the queue of a Unix socket) is waited for by a worker of io_uring, as with the close alone.
# Seen: with a close alone the submitting thread goes on. With a setsockopt before it in the chain (a hard link), that
#   thread stops for the whole linger time, in whichever system call it makes next. The first request holds a reference
#   to the open file until the submitting thread collects its completion; the close has then come first, and the last
#   reference is dropped, and the file released, there.
# Why it matters: this pair is the obvious way to "clear SO_LINGER, then close" a descriptor that came from another
#   process without waiting for it. Make the setsockopt a system call of its own, and submit the close alone.
# Documentation: io_uring_enter(2) on IOSQE_ASYNC: the request is issued asynchronously from the start. It does not say
#   which thread releases the file.
# Versions: Linux 6.18; needs 6.7 for setsockopt through io_uring, and a C compiler.
set -euo pipefail
command -v cc >/dev/null || { echo "needs a C compiler"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > close.c <<'C'
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static int ring;
static unsigned *tail, mask;
static struct io_uring_sqe *sqes;

static void setup(void) {
  struct io_uring_params p = {.flags = 1u << 16 | IORING_SETUP_COOP_TASKRUN};
  ring = syscall(SYS_io_uring_setup, 8, &p);
  if (ring < 0) {
    fprintf(stderr, "needs io_uring: %s\n", strerror(errno));
    exit(2);
  }
  char *queue = mmap(0, p.cq_off.cqes + p.cq_entries * 16, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
  sqes = mmap(0, p.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
  tail = (unsigned *)(queue + p.sq_off.tail);
  mask = *(unsigned *)(queue + p.sq_off.ring_mask);
}

static struct io_uring_sqe *next(unsigned char opcode, int fd, unsigned char flags) {
  struct io_uring_sqe *sqe = &sqes[*tail & mask];
  memset(sqe, 0, sizeof *sqe);
  sqe->opcode = opcode;
  sqe->fd = fd;
  sqe->flags = flags;
  __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
  return sqe;
}

/* A connection whose last close(2) waits for two seconds: the peer does not read, and SO_LINGER is on. */
static int lingering(int *peer) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  bind(listener, (void *)&address, length);
  listen(listener, 1);
  getsockname(listener, (void *)&address, &length);
  *peer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  connect(*peer, (void *)&address, length);
  int fd = accept4(listener, 0, 0, SOCK_CLOEXEC);
  close(listener);
  static char bytes[65536];
  while (send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0);
  struct linger linger = {1, 2};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
  return fd;
}

static void measure(const char *name, int chained) {
  int peer, fd = lingering(&peer);
  if (chained) {
    static struct linger same = {1, 2};
    struct io_uring_sqe *first = next(46 /* IORING_OP_URING_CMD */, fd, IOSQE_ASYNC | IOSQE_IO_HARDLINK);
    first->off = 3; /* SOCKET_URING_OP_SETSOCKOPT */
    first->addr = SOL_SOCKET | (unsigned long)SO_LINGER << 32;
    ((unsigned *)first)[11] = sizeof same;
    ((unsigned long *)first)[6] = (unsigned long)&same;
  }
  next(IORING_OP_CLOSE, fd, IOSQE_ASYNC);
  double began = now();
  syscall(SYS_io_uring_enter, ring, 1 + chained, 0, 0, 0, 0);
  /* The worker does its part meanwhile. */
  for (double until = now() + 0.1; now() < until;);
  for (int calls = 0; calls < 500; calls++) {
    getppid();
    usleep(1000);
  }
  double took = now() - began - 0.6;
  printf("%s: the submitting thread %s\n", name, took > 1.5 ? "waited for the close" : "did not wait");
  close(peer);
}

int main(void) {
  setvbuf(stdout, 0, _IOLBF, 0);
  setup();
  measure("close alone, IOSQE_ASYNC", 0);
  measure("setsockopt and close in a chain, both IOSQE_ASYNC", 1);
  return 0;
}
C
cc -O1 -o close close.c 2>cc.log || { cat cc.log; echo "needs the headers of Linux and of the C library"; exit 2; }
status=0
out=$(timeout 30 ./close 2>error.log) || status=$?
if [ "$status" -eq 2 ]; then cat error.log; exit 2; fi
printf '%s\n' "$out"
recorded='close alone, IOSQE_ASYNC: the submitting thread did not wait
setsockopt and close in a chain, both IOSQE_ASYNC: the submitting thread waited for the close'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
