// A shop on the port and in the folder that are given. It says that it is ready; the tests fill it by its API.
require('reflect-metadata');
const { bootstrap, DefaultLogger, LanguageCode, LogLevel, PaymentMethodHandler } = require('@vendure/core');

const [port, folder] = process.argv.slice(2);

const words = (value) => [{ languageCode: LanguageCode.en, value }];

// A provider of payments that does what it is told.
const card = new PaymentMethodHandler({
    code: 'card',
    description: words('Card'),
    args: {},
    createPayment: (ctx, order, amount) => ({ amount, state: 'Settled', transactionId: `p-${order.code}` }),
    settlePayment: () => ({ success: true }),
    createRefund: () => ({ state: 'Settled', transactionId: 'r' }),
});

bootstrap({
    apiOptions: { port: Number(port), hostname: '127.0.0.1', adminApiPath: 'admin-api', shopApiPath: 'shop-api' },
    authOptions: {
        tokenMethod: ['bearer', 'cookie'],
        superadminCredentials: { identifier: 'superadmin', password: 'superadmin' },
        cookieOptions: { secret: 'tests' },
    },
    dbConnectionOptions: { type: 'better-sqlite3', database: `${folder}/shop.sqlite`, synchronize: true },
    paymentOptions: { paymentMethodHandlers: [card] },
    logger: new DefaultLogger({ level: LogLevel.Error }),
    plugins: [],
}).then(
    () => console.log('ready'),
    (error) => {
        console.error(error);
        process.exit(1);
    },
);
