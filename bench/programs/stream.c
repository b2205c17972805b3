/* The program behind the relay measurements. Listens on 127.0.0.1:PORT, and the first byte of a connection says what
 * it is for; a thread serves each of them.
 *
 *   E  echo: what comes is sent back
 *   S  source: bytes are sent until the other end closes
 *   K  sink: bytes are read and forgotten until the other end closes */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BLOCK = 256 * 1024, STACK = 64 * 1024 };

/* What a source sends; it is the same for all. */
static char zeros[BLOCK];

static int send_all(int fd, const char *bytes, ssize_t length) {
    while (length > 0) {
        ssize_t sent = write(fd, bytes, length);
        if (sent <= 0) return -1;
        bytes += sent;
        length -= sent;
    }
    return 0;
}

static void *serve(void *argument) {
    int fd = (int)(intptr_t)argument, on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    char what = 0, *block = malloc(BLOCK);
    if (block && read(fd, &what, 1) == 1) {
        ssize_t got;
        if (what == 'E')
            while ((got = read(fd, block, BLOCK)) > 0 && send_all(fd, block, got) == 0) {
            }
        else if (what == 'S')
            while (send_all(fd, zeros, BLOCK) == 0) {
            }
        else if (what == 'K')
            while (read(fd, block, BLOCK) > 0) {
            }
    }
    free(block);
    close(fd);
    return NULL;
}

int main(void) {
    const char *port = getenv("PORT");
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(port ? atoi(port) : 0),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 128) < 0) {
        perror("listen");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, STACK);
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    for (;;) {
        int client = accept(fd, NULL, NULL);
        pthread_t thread;
        if (client >= 0 && pthread_create(&thread, &small, serve, (void *)(intptr_t)client)) close(client);
    }
}
