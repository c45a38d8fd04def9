// Speaks vsock, which busybox cannot.
// usage: vsock connect CID PORT | vsock listen PORT | vsock echo PORT | vsock many CID PORT COUNT
//
// connect and listen join standard input and output to one stream: the end of the input shuts the sending half down,
// and the program ends when the peer has done the same. echo sends back what it gets, on any number of streams. many
// opens COUNT streams, then sends a number on each, which it must get back, and prints how many there were.

#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void fail(const char *what) {
    perror(what);
    exit(1);
}

static unsigned number(const char *text) {
    char *end;
    unsigned long value = strtoul(text, &end, 0);
    if (*text == '\0' || *end != '\0' || value > 0xffffffffUL) {
        fprintf(stderr, "vsock: '%s' is not a number\n", text);
        exit(2);
    }
    return (unsigned)value;
}

static int connected(unsigned cid, unsigned port) {
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
    int stream = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (stream < 0) fail("vsock: socket");
    if (connect(stream, (struct sockaddr *)&address, sizeof address) < 0) fail("vsock: connect");
    return stream;
}

static int listening(unsigned port, int queue) {
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (listener < 0) fail("vsock: socket");
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) fail("vsock: bind");
    if (listen(listener, queue) < 0) fail("vsock: listen");
    return listener;
}

static int accepted(unsigned port) {
    int listener = listening(port, 1);
    int stream = accept(listener, NULL, NULL);
    if (stream < 0) fail("vsock: accept");
    close(listener);
    return stream;
}

static int write_all(int to, const char *bytes, ssize_t length) {
    ssize_t part;
    for (ssize_t done = 0; done < length; done += part)
        if ((part = write(to, bytes + done, (size_t)(length - done))) < 0) return 0;
    return 1;
}

static void copy(int from, int to) {
    char buffer[65536];
    ssize_t length;
    while ((length = read(from, buffer, sizeof buffer)) > 0)
        if (!write_all(to, buffer, length)) fail("vsock: write");
    if (length < 0) fail("vsock: read");
}

enum { STREAMS = 1024 };

// A stream that fails is closed; the others go on. Ends only when it is killed.
static _Noreturn void echo(unsigned port) {
    static struct pollfd streams[STREAMS + 1];
    static char buffer[65536];
    nfds_t count = 1;
    streams[0] = (struct pollfd){.fd = listening(port, STREAMS), .events = POLLIN};
    while (poll(streams, count, -1) > 0)
        for (nfds_t i = count; i-- > 0;) {
            if (!streams[i].revents) continue;
            if (i == 0) {
                int stream = accept(streams[0].fd, NULL, NULL);
                if (stream < 0) continue;
                if (count <= STREAMS)
                    streams[count++] = (struct pollfd){.fd = stream, .events = POLLIN};
                else
                    close(stream);
                continue;
            }
            ssize_t length = read(streams[i].fd, buffer, sizeof buffer);
            if (length > 0 && write_all(streams[i].fd, buffer, length)) continue;
            close(streams[i].fd);
            streams[i] = streams[--count];
        }
    fail("vsock: poll");
}

static void many(unsigned cid, unsigned port, unsigned count) {
    static int streams[STREAMS];
    if (count > STREAMS) {
        fprintf(stderr, "vsock: at most %d streams\n", STREAMS);
        exit(2);
    }
    for (unsigned i = 0; i < count; i++) streams[i] = connected(cid, port);
    for (unsigned i = 0; i < count; i++)
        if (!write_all(streams[i], (char *)&i, sizeof i)) fail("vsock: write");
    for (unsigned i = 0; i < count; i++) {
        unsigned number;
        if (recv(streams[i], &number, sizeof number, MSG_WAITALL) != sizeof number) fail("vsock: read");
        if (number != i) {
            fprintf(stderr, "vsock: stream %u answers %u\n", i, number);
            exit(1);
        }
        close(streams[i]);
    }
    printf("%u\n", count);
}

int main(int count, char **word) {
    int stream;
    signal(SIGPIPE, SIG_IGN); // A peer that is gone is an error like any other.
    if (count == 4 && strcmp(word[1], "connect") == 0)
        stream = connected(number(word[2]), number(word[3]));
    else if (count == 3 && strcmp(word[1], "listen") == 0)
        stream = accepted(number(word[2]));
    else if (count == 3 && strcmp(word[1], "echo") == 0)
        echo(number(word[2]));
    else if (count == 5 && strcmp(word[1], "many") == 0) {
        many(number(word[2]), number(word[3]), number(word[4]));
        return 0;
    } else {
        fputs("usage: vsock connect CID PORT | vsock listen PORT | vsock echo PORT | vsock many CID PORT COUNT\n", stderr);
        return 2;
    }
    // A process for each direction, so that neither waits for the other.
    pid_t sender = fork();
    if (sender < 0) fail("vsock: fork");
    if (sender == 0) {
        copy(STDIN_FILENO, stream);
        shutdown(stream, SHUT_WR);
        return 0;
    }
    copy(stream, STDOUT_FILENO);
    int status;
    if (waitpid(sender, &status, 0) < 0) fail("vsock: wait");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
