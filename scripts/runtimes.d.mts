export declare function installedRuntime(name: 'bun' | 'deno'): string
