// https://nextjs.org/docs/pages/guides/custom-server
const { createServer } = require('node:http')
const next = require('next')

const port = Number(process.env.PORT ?? 3000)
const dev = process.env.NODE_ENV !== 'production'
const app = next({ dev })
const handle = app.getRequestHandler()

app.prepare().then(() => {
  createServer((request, response) => handle(request, response)).listen(port)
  console.log(`> Server listening at http://localhost:${port}`)
})
