/* The same dump in C: the least that a program has to pay. `dump HEX`: the question, as watchdogd/observe/tcp/sock_diag.py
 * makes it; then each line "COUNT" on standard input is answered by the rows found and the CPU of each dump in ns. */
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct row {
    uint64_t cookie;
    uint32_t inode, rqueue, data_ms, ack_ms;
    uint8_t state;
};

static char question[65536], answer[65536];
static struct row rows[65536];

static int64_t cpu_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void take(struct nlmsghdr *header, struct row *row) {
    struct inet_diag_msg *message = NLMSG_DATA(header);
    int left = (int)(header->nlmsg_len - NLMSG_LENGTH(sizeof *message));
    memcpy(&row->cookie, message->id.idiag_cookie, sizeof row->cookie);
    row->inode = message->idiag_inode;
    row->rqueue = message->idiag_rqueue;
    row->state = message->idiag_state;
    for (struct nlattr *at = (void *)(message + 1); left >= (int)sizeof *at && at->nla_len;
         left -= NLA_ALIGN(at->nla_len), at = (void *)((char *)at + NLA_ALIGN(at->nla_len)))
        if (at->nla_type == INET_DIAG_INFO) {
            struct tcp_info *info = (void *)((char *)at + NLA_HDRLEN);
            row->data_ms = info->tcpi_last_data_recv;
            row->ack_ms = info->tcpi_last_ack_recv;
        }
}

static int dump(int netlink, size_t size) {
    static uint32_t sequence;
    int count = 0;
    ((struct nlmsghdr *)question)->nlmsg_seq = ++sequence;
    if (send(netlink, question, size, 0) < 0)
        return perror("send"), exit(1), 0;
    for (;;) {
        int got = (int)recv(netlink, answer, sizeof answer, 0);
        if (got <= 0)
            return perror("recv"), exit(1), 0;
        for (struct nlmsghdr *header = (void *)answer; NLMSG_OK(header, (unsigned)got);
             header = NLMSG_NEXT(header, got)) {
            if (header->nlmsg_type == NLMSG_DONE)
                return count;
            if (header->nlmsg_type == NLMSG_ERROR)
                return fprintf(stderr, "the kernel refuses the question\n"), exit(1), 0;
            take(header, &rows[count++ % 65536]);
        }
    }
}

int main(int argc, char **argv) {
    char line[64];
    int netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG);
    size_t size = argc == 2 ? strlen(argv[1]) / 2 : 0;
    if (netlink < 0 || size == 0 || size > sizeof question)
        return 2;
    for (size_t at = 0; at < size; at++)
        sscanf(argv[1] + 2 * at, "%2hhx", (unsigned char *)question + at);
    while (fgets(line, sizeof line, stdin)) {
        int found = 0;
        for (int left = atoi(line); left > 0; left--) {
            int64_t begin = cpu_ns();
            found = dump(netlink, size);
            printf("%lld ", (long long)(cpu_ns() - begin));
        }
        printf("%d\n", found);
        fflush(stdout);
    }
    return 0;
}
