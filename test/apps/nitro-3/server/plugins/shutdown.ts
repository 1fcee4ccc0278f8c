import { defineNitroPlugin } from 'nitro/runtime'

export default defineNitroPlugin((app) => {
  app.hooks.hook('close', () => console.log('shut down'))
})
