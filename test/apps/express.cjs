// https://expressjs.com/en/starter/hello-world.html
const express = require('express')
const app = express()
const port = process.env.PORT ?? 3000

app.get('/', (req, res) => {
  res.send(`${process.pid} ${req.socket.remoteAddress} ${req.socket.remotePort}`)
})

app.listen(port, () => {
  console.log(`Example app listening on port ${port}`)
})
