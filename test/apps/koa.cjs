// https://koajs.com/
const Koa = require('koa')
const app = new Koa()

app.use(async (ctx) => {
  ctx.body = `${process.pid} ${ctx.req.socket.remoteAddress} ${ctx.req.socket.remotePort}`
})

app.listen(process.env.PORT ?? 3000)
