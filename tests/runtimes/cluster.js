// A cluster: a process that accepts connections, three that answer with their
// pids. SIGTERM ends them all, with status 7.
//
// usage: cluster.js PORT
const cluster = require('cluster');
const http = require('http');

if (cluster.isPrimary) {
  for (let index = 0; index < 3; index++) cluster.fork();
  let left = 3;
  cluster.on('exit', () => { if (--left === 0) process.exit(7); });
  process.on('SIGTERM', () => {
    for (const worker of Object.values(cluster.workers)) worker.process.kill('SIGTERM');
  });
} else {
  const answer = (_, response) => {
    response.setHeader('Connection', 'close');
    response.end(String(process.pid));
  };
  http.createServer(answer).listen(Number(process.argv[2]), '127.0.0.1');
}
