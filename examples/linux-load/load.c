/* Loads for `cargo xtask bench linux`: each prints what one operation takes by the kernel's monotonic clock, and marks for a
 * plugin of QEMU what is to be counted. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, MIB = 1 << 20, ECHO = 7, DISCARD = 9 };

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* The rows, numbered from 1 as xtask/src/bench/linux.rs has them. */
static const char *const rows[] = {
	"null_system_call", "fork_exit", "fork_exec", "context_switch", "page_fault", "mmap_64_pages", "compute_xorshift",
	"disk_random_4k_depth_1", "disk_random_4k_depth_32", "disk_sequential_128k_depth_1", "disk_sequential_128k_depth_8",
	"udp_round_trip", "udp_small_received", "tcp_mib",
};

/* MOVNTI marks for whoever counts from outside (xtask/src/counts/plugin.c): word 0 begins a measurement, word N ends row
 * N's, the last word ends all. */
static volatile uint64_t marks[512] __attribute__((aligned(4096)));

static void mark(unsigned word)
{
	marks[word] = 0;
	__asm__ volatile("movnti %1, %0" : "=m"(marks[word]) : "r"(0ull));
}

static uint64_t begin_row(void)
{
	mark(0);
	return now();
}

/* `BENCH name ns row count`. */
static void report(const char *name, uint64_t start, double count)
{
	double each = (now() - start) / count;
	unsigned row = 0;

	while (strcmp(rows[row], name))
		row++;
	mark(row + 1);
	printf("BENCH %s %.1f %u %.0f\n", name, each, row + 1, count);
	fflush(stdout);
}

static void die(const char *what)
{
	printf("BENCH failed: %s: %s\n", what, strerror(errno));
	exit(1);
}

#define CHECK(call) ({ __typeof__(call) result_ = (call); if (result_ < 0) die(#call); result_; })

/* --- one process --- */

static void null_system_call(void)
{
	enum { N = 100000 };
	uint64_t start = begin_row();

	for (int i = 0; i < N; i++)
		syscall(SYS_getppid);
	report("null_system_call", start, N);
}

static void fork_exit(void)
{
	enum { N = 200 };
	uint64_t start = begin_row();

	for (int i = 0; i < N; i++) {
		pid_t child = CHECK(fork());

		if (!child)
			_exit(0);
		CHECK(waitpid(child, NULL, 0));
	}
	report("fork_exit", start, N);
}

static void fork_exec(const char *self)
{
	enum { N = 100 };
	uint64_t start = begin_row();

	for (int i = 0; i < N; i++) {
		pid_t child = CHECK(fork());

		if (!child) {
			execl(self, self, "nothing", NULL);
			_exit(1);
		}
		CHECK(waitpid(child, NULL, 0));
	}
	report("fork_exec", start, N);
}

/* Two processes that wake each other: two switches a round. */
static void context_switch(void)
{
	enum { N = 5000 };
	int to[2], from[2];
	char byte = 0;
	uint64_t start;
	pid_t child;

	CHECK(pipe(to));
	CHECK(pipe(from));
	child = CHECK(fork());
	if (!child) {
		for (int i = 0; i < N; i++) {
			CHECK(read(to[0], &byte, 1));
			CHECK(write(from[1], &byte, 1));
		}
		_exit(0);
	}
	start = begin_row();
	for (int i = 0; i < N; i++) {
		CHECK(write(to[1], &byte, 1));
		CHECK(read(from[0], &byte, 1));
	}
	report("context_switch", start, 2.0 * N);
	CHECK(waitpid(child, NULL, 0));
}

static void page_fault(void)
{
	enum { N = 4096 };
	char *area = mmap(NULL, (size_t)N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t start;

	CHECK(madvise(area, (size_t)N * PAGE, MADV_NOHUGEPAGE) < 0 && errno != EINVAL ? -1 : 0);
	start = begin_row();
	for (size_t i = 0; i < N; i++)
		((volatile char *)area)[i * PAGE] = 1;
	report("page_fault", start, N);
	munmap(area, (size_t)N * PAGE);
}

/* 64 pages mapped, touched and unmapped. */
static void map_unmap(void)
{
	enum { N = 500, PAGES = 64 };
	uint64_t start = begin_row();

	for (int i = 0; i < N; i++) {
		char *area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (area == MAP_FAILED)
			die("mmap");
		for (int page = 0; page < PAGES; page++)
			((volatile char *)area)[page * PAGE] = 1;
		CHECK(munmap(area, PAGES * PAGE));
	}
	report("mmap_64_pages", start, N);
}

static void compute(void)
{
	enum { N = 20000000 };
	uint64_t x = 88172645463325252ull, start = begin_row();

	for (int i = 0; i < N; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	__asm__ volatile("" ::"r"(x));
	report("compute_xorshift", start, N);
}

/* --- the disk, past the page cache --- */

static void disk(const char *name, int fd, size_t bytes, int depth, int count, int random)
{
	enum { MAX = 32 };
	uint64_t blocks = lseek(fd, 0, SEEK_END) / bytes;
	aio_context_t context = 0;
	struct iocb requests[MAX], *pointers[MAX];
	struct io_event events[MAX];
	uint64_t x = 88172645463325252ull, start;
	int begun = 0, ended = 0, begin = depth;
	char *memory = mmap(NULL, bytes * depth, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	CHECK(syscall(SYS_io_setup, MAX, &context));
	start = begin_row();
	for (int i = 0; i < depth; i++)
		events[i].data = i;
	while (ended < count) {
		int n = 0, got;

		for (; n < begin && begun < count; n++, begun++) {
			int slot = events[n].data;

			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			requests[slot] = (struct iocb){
				.aio_data = slot, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = fd, .aio_nbytes = bytes,
				.aio_buf = (uintptr_t)(memory + slot * bytes),
				.aio_offset = (random ? x % blocks : begun % blocks) * bytes,
			};
			pointers[n] = &requests[slot];
		}
		if (n && syscall(SYS_io_submit, context, n, pointers) != n)
			die("io_submit");
		got = CHECK(syscall(SYS_io_getevents, context, 1, depth, events, NULL));
		for (int i = 0; i < got; i++)
			if (events[i].res != (int64_t)bytes)
				die("a read");
		ended += got;
		begin = got;
	}
	report(name, start, count);
	syscall(SYS_io_destroy, context);
	munmap(memory, bytes * depth);
}

/* --- the network --- */

static struct sockaddr_in address(const char *host, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };

	to.sin_addr.s_addr = host ? inet_addr(host) : INADDR_ANY;
	return to;
}

static int opened(int kind, const char *host, int port)
{
	struct sockaddr_in at = address(host, port);
	int fd = CHECK(socket(AF_INET, kind, 0)), one = 1;

	if (!host) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		CHECK(bind(fd, (struct sockaddr *)&at, sizeof(at)));
		if (kind == SOCK_STREAM)
			CHECK(listen(fd, 4));
		return fd;
	}
	while (connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		if (errno != ECONNREFUSED && errno != EHOSTUNREACH && errno != ETIMEDOUT)
			die("connect");
	return fd;
}

/* Echoes datagrams; counts small ones; swallows streams, and says how much it was. */
static void sink(void)
{
	static char buffer[256 << 10];

	if (!CHECK(fork())) {
		int fd = opened(SOCK_DGRAM, NULL, ECHO);
		struct sockaddr_in from;

		for (;;) {
			socklen_t len = sizeof(from);
			ssize_t got = CHECK(recvfrom(fd, buffer, sizeof(buffer), 0, (struct sockaddr *)&from, &len));

			sendto(fd, buffer, got, 0, (struct sockaddr *)&from, len);
		}
	}
	if (!CHECK(fork())) {
		int fd = opened(SOCK_DGRAM, NULL, DISCARD), room = 32 * MIB;
		struct sockaddr_in from;
		uint32_t count = 0;

		/* Room for them all, at the page a packet that netfront takes: what is lost is lost on the way. */
		CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)));
		for (;;) {
			socklen_t len = sizeof(from);
			ssize_t got = CHECK(recvfrom(fd, buffer, sizeof(buffer), 0, (struct sockaddr *)&from, &len));

			count += got == 22;
			if (got == 4)
				sendto(fd, &count, sizeof(count), 0, (struct sockaddr *)&from, len);
		}
	}
	int listening = opened(SOCK_STREAM, NULL, DISCARD);

	printf("BENCH sink\n");
	fflush(stdout);
	for (;;) {
		int fd = CHECK(accept(listening, NULL, NULL));
		uint64_t total = 0;
		ssize_t got;

		while ((got = read(fd, buffer, sizeof(buffer))) > 0)
			total += got;
		if (write(fd, &total, sizeof(total)) < 0)
			die("answer");
		close(fd);
	}
}

static void tcp(const char *host)
{
	enum { N = 64 };
	static char buffer[128 << 10];
	int fd = opened(SOCK_STREAM, host, DISCARD);
	uint64_t total = 0, start = begin_row();

	for (size_t sent = 0; sent < (size_t)N * MIB; sent += sizeof(buffer))
		for (size_t done = 0; done < sizeof(buffer);)
			done += CHECK(write(fd, buffer + done, sizeof(buffer) - done));
	shutdown(fd, SHUT_WR);
	CHECK(read(fd, &total, sizeof(total)));
	if (total != (uint64_t)N * MIB)
		die("bytes are missing");
	report("tcp_mib", start, N);
	close(fd);
}

/* A datagram and its answer within a second; what is lost is sent again. */
static void ask(int fd, const void *question, size_t bytes, void *answer)
{
	struct timeval second = { .tv_sec = 1 };

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second));
	do
		send(fd, question, bytes, 0);
	while (recv(fd, answer, bytes, 0) < 0);
}

static void udp(const char *host)
{
	enum { TRIPS = 2000, SMALL = 20000 };
	int echo = opened(SOCK_DGRAM, host, ECHO), discard = opened(SOCK_DGRAM, host, DISCARD);
	char packet[22] = { 0 };
	uint32_t before, after;
	uint64_t start;

	ask(echo, packet, sizeof(packet), packet);
	start = begin_row();
	for (int i = 0; i < TRIPS; i++)
		ask(echo, packet, sizeof(packet), packet);
	report("udp_round_trip", start, TRIPS);
	ask(discard, "stat", 4, &before);
	start = begin_row();
	for (int i = 0; i < SMALL; i++)
		send(discard, packet, sizeof(packet), 0);
	ask(discard, "stat", 4, &after);
	report("udp_small_received", start, after - before);
	printf("udp: %u of %u received\n", after - before, (unsigned)SMALL);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "up"))
		printf("BENCH up %llu\n", (unsigned long long)now());
	if (!strcmp(what, "sink"))
		sink();
	if (!strcmp(what, "process")) {
		null_system_call();
		fork_exit();
		fork_exec(argv[0]);
		context_switch();
		page_fault();
		map_unmap();
		compute();
	}
	if (!strcmp(what, "disk")) {
		int fd = CHECK(open(argv[2], O_RDONLY | O_DIRECT));

		disk("disk_random_4k_depth_1", fd, 4096, 1, 4000, 1);
		disk("disk_random_4k_depth_32", fd, 4096, 32, 8000, 1);
		disk("disk_sequential_128k_depth_1", fd, 128 << 10, 1, 400, 0);
		disk("disk_sequential_128k_depth_8", fd, 128 << 10, 8, 400, 0);
	}
	if (!strcmp(what, "net")) {
		udp(argv[2]);
		tcp(argv[2]);
	}
	if (!strcmp(what, "last"))
		mark(511);
	return 0;
}
