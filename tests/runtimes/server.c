/* Answers with how many it has answered. usage: server PORT */
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int listener, answered;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *serve(void *unused)
{
	for (;;) {
		int client = accept(listener, NULL, NULL);
		/* An allocator that gives memory back and takes it again. */
		char *request = calloc(1, 1 << 20), reply[256];
		size_t length = 0;
		ssize_t got;
		while (!strstr(request, "\r\n\r\n") &&
		       (got = read(client, request + length, 65536)) > 0)
			length += got;
		pthread_mutex_lock(&lock);
		int number = ++answered;
		pthread_mutex_unlock(&lock);
		char body[32];
		snprintf(body, sizeof body, "answer %d", number);
		snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s",
			 strlen(body), body);
		if (write(client, reply, strlen(reply)) < 0)
			perror("write");
		free(request);
		close(client);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_port = htons(atoi(argv[1])),
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int yes = 1;
	listener = socket(AF_INET, SOCK_STREAM, 0);
	if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) || bind(listener, (void *)&address, sizeof address) || listen(listener, 16))
		return 1;
	pthread_t threads[3];
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, serve, NULL);
	serve(NULL);
}
