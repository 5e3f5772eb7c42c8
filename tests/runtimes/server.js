// Answers with how many it has answered, and with what it draws at random.
// usage: node server.js PORT [express]
const crypto = require('crypto');
const port = Number(process.argv[2]);
let answered = 0;
// So that every generator has been seeded before the capture.
const draw = () => [
  'secure crypto.randomBytes ' + crypto.randomBytes(16).toString('hex'),
  'secure crypto.randomUUID ' + crypto.randomUUID(),
  'secure crypto.getRandomValues ' + Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString('hex'),
  'plain Math.random ' + Math.random(),
].join('\n');
draw();
const answer = (url) => (url === '/random' ? draw() : `answer ${++answered}`);
if (process.argv[3] === 'express') {
  const app = require('express')();
  app.get('/random', (request, response) => response.send(answer('/random')));
  app.get('/', (request, response) => response.send(answer('/')));
  app.listen(port, '127.0.0.1');
} else {
  require('http').createServer((request, response) => response.end(answer(request.url))).listen(port, '127.0.0.1');
}
