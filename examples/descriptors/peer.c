/* The same in C: cc -o peer peer.c; ./peer send SOCKET FILE, or ./peer receive SOCKET */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		errx(1, "%s is too long", path);
	strcpy(address.sun_path, path);
	return address;
}

static void send_file(const char *path, const char *name)
{
	struct sockaddr_un address = address_of(path);
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* A union, for the alignment of the header. */
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec data = { "a file", 6 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes,
				  .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	if (fd < 0)
		err(1, "%s", name);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	if (connect(connection, (struct sockaddr *)&address, sizeof(address)) < 0)
		err(1, "connect %s", path);
	if (sendmsg(connection, &message, MSG_NOSIGNAL) < 0)
		err(1, "sendmsg");
}

static void receive_file(const char *path)
{
	struct sockaddr_un address = address_of(path);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	char text[65] = "", content[4096];
	struct iovec data = { text, sizeof(text) - 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes,
				  .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *header;
	int connection, fd;
	ssize_t size;

	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 16) < 0)
		err(1, "%s", path);
	puts("listening");
	fflush(stdout);
	connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (connection < 0 || recvmsg(connection, &message, MSG_CMSG_CLOEXEC) < 0)
		err(1, "recvmsg");
	header = CMSG_FIRSTHDR(&message);
	if (header == NULL || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
		errx(1, "no descriptor came");
	memcpy(&fd, CMSG_DATA(header), sizeof(int));
	size = read(fd, content, sizeof(content));
	if (size < 0)
		err(1, "read");
	printf("%s: %.*s\n", text, (int)size, content);
}

int main(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[1], "send") == 0)
		send_file(argv[2], argv[3]);
	else if (argc == 3 && strcmp(argv[1], "receive") == 0)
		receive_file(argv[2]);
	else
		errx(2, "usage: peer send SOCKET FILE | peer receive SOCKET");
	return 0;
}
