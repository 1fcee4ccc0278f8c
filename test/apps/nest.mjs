// https://docs.nestjs.com/first-steps, with the decorators called as functions, because their syntax needs a compiler.
import { Controller, Get, Module, Req } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'

class AppController {
  getHello(request) {
    const { remoteAddress, remotePort } = request.socket
    return `${process.pid} ${remoteAddress} ${remotePort}`
  }
}
const getHello = Object.getOwnPropertyDescriptor(AppController.prototype, 'getHello')
Req()(AppController.prototype, 'getHello', 0)
Get()(AppController.prototype, 'getHello', getHello)
Controller()(AppController)

// oxlint-disable-next-line typescript/no-extraneous-class
class AppModule {}
Module({ controllers: [AppController] })(AppModule)

async function bootstrap() {
  const app = await NestFactory.create(AppModule)
  await app.listen(process.env.PORT ?? 3000)
}
await bootstrap()
