import com.sun.net.httpserver.HttpServer;
import java.math.BigInteger;
import java.net.InetSocketAddress;
import java.security.SecureRandom;
import java.util.UUID;
import java.util.concurrent.ThreadLocalRandom;

/** Answers with how many it has answered, and with what it draws at random. */
public class Draws {
    static final SecureRandom DEFAULT = new SecureRandom();
    static SecureRandom sha1, drbg;
    static int answered;

    static String draw(String name, SecureRandom random) {
        byte[] bytes = new byte[16];
        random.nextBytes(bytes);
        return "secure " + name + " " + new BigInteger(1, bytes).toString(16) + "\n";
    }

    static synchronized String answer(String path) {
        if (!path.equals("/random")) return "answer " + ++answered;
        return draw("SecureRandom", DEFAULT) + draw("SecureRandom(SHA1PRNG)", sha1)
            + draw("SecureRandom(DRBG)", drbg) + "secure UUID.randomUUID " + UUID.randomUUID() + "\n"
            + "plain Math.random " + Math.random() + "\n"
            + "plain ThreadLocalRandom " + ThreadLocalRandom.current().nextLong();
    }

    public static void main(String[] args) throws Exception {
        sha1 = SecureRandom.getInstance("SHA1PRNG");
        drbg = SecureRandom.getInstance("DRBG");
        // So that every generator has been seeded before the capture.
        answer("/random");
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])), 0);
        server.createContext("/", exchange -> {
            byte[] body = answer(exchange.getRequestURI().getPath()).getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
    }
}
