// With every kind of server that ends TLS.
process.env['SERVERS'] = 'https,tls,http2'
await import('../tls-sessions.test.ts')
