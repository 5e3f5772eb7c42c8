import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;
import java.util.zip.CRC32;

/**
 * An HTTP server that does on request what is hard on a restored virtual
 * machine, and answers what the caller can compute as well.
 *
 * Exercise PORT: serves /work?SEED, /random and /environment?NAME. Holds the
 * file open that EXERCISE_DATA names.
 */
public class Exercise {
    /** Lives through every capture: what a restore must bring back intact. */
    static final List<byte[]> BALLAST = new ArrayList<>();
    static final UUID BORN = UUID.randomUUID();
    static final SecureRandom SECURE = new SecureRandom();
    static Object data;

    public static void main(String[] args) throws Exception {
        for (int i = 0; i < 256; i++) {
            byte[] block = new byte[16 * 1024];
            java.util.Arrays.fill(block, (byte) i);
            BALLAST.add(block);
        }
        SECURE.nextLong();
        String held = System.getenv("EXERCISE_DATA");
        if (held != null && Files.exists(Path.of(held))) data = Files.newInputStream(Path.of(held));
        int port = Integer.parseInt(args[0]);
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.createContext("/work", exchange -> answer(exchange, Exercise::work));
        server.createContext("/random", exchange -> answer(exchange, Exercise::random));
        server.createContext("/environment", exchange -> answer(exchange, Exercise::environment));
        server.start();
        System.out.println("listening on " + port);
    }

    interface Answer {
        String to(String query) throws Exception;
    }

    static void answer(HttpExchange exchange, Answer answer) throws IOException {
        String text;
        int status = 200;
        try {
            String query = exchange.getRequestURI().getQuery();
            text = answer.to(query == null ? "" : query);
        } catch (Throwable error) {
            status = 500;
            text = "failed: " + error;
            error.printStackTrace();
        }
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().add("Connection", "close");
        exchange.sendResponseHeaders(status, bytes.length);
        exchange.getResponseBody().write(bytes);
        exchange.close();
    }

    /** Does everything; each step answers with a value of the seed. */
    static String work(String query) throws Exception {
        long seed = Long.parseLong(query);
        StringBuilder text = new StringBuilder();
        text.append("gc=").append(garbage(seed));
        text.append(" threads=").append(threads(seed));
        text.append(" null=").append(nullPointers(seed));
        text.append(" overflow=").append(overflows(seed));
        text.append(" classes=").append(classes(seed));
        text.append(" files=").append(files(seed));
        text.append(" exec=").append(exec(seed));
        return text.toString();
    }

    /** Makes garbage and collects it; the ballast must survive. */
    static long garbage(long seed) {
        List<byte[]> kept = new ArrayList<>();
        for (int i = 0; i < 2000; i++) {
            byte[] block = new byte[4096];
            block[0] = (byte) seed;
            if (i % 50 == 0) kept.add(block);
        }
        System.gc();
        CRC32 crc = new CRC32();
        for (int i = 0; i < BALLAST.size(); i++) {
            byte[] block = BALLAST.get(i);
            for (byte b : block) {
                if (b != (byte) i) throw new IllegalStateException("ballast " + i);
            }
            crc.update(block);
        }
        for (byte[] block : kept) {
            if (block[0] != (byte) seed) throw new IllegalStateException("kept");
        }
        return crc.getValue() + seed;
    }

    /** Starts threads that wait for one another. */
    static long threads(long seed) throws Exception {
        AtomicLong sum = new AtomicLong(seed);
        List<Thread> threads = new ArrayList<>();
        Object lock = new Object();
        for (int i = 1; i <= 8; i++) {
            int n = i;
            Thread thread = new Thread(() -> {
                synchronized (lock) {
                    sum.addAndGet(n);
                }
            });
            threads.add(thread);
            thread.start();
        }
        for (Thread thread : threads) thread.join();
        return sum.get();
    }

    static int lengthOf(Object[] array, int i) {
        return array[i].toString().length();
    }

    /** Makes the virtual machine turn SIGSEGV into exceptions. */
    static long nullPointers(long seed) {
        long caught = seed;
        Object[] array = {"1", null, "22", null};
        for (int round = 0; round < 500; round++) {
            try {
                lengthOf(array, round % 4);
            } catch (NullPointerException error) {
                caught++;
            }
        }
        return caught;
    }

    static int deeper(int depth) {
        return deeper(depth + 1) + 1;
    }

    /** Runs into the guard pages, here and in a thread of its own. */
    static long overflows(long seed) throws Exception {
        AtomicLong caught = new AtomicLong(seed);
        Runnable overflow = () -> {
            for (int i = 0; i < 2; i++) {
                try {
                    deeper(0);
                } catch (StackOverflowError error) {
                    caught.incrementAndGet();
                }
            }
        };
        overflow.run();
        Thread thread = new Thread(overflow);
        thread.start();
        thread.join();
        return caught.get();
    }

    /** Defines a class anew in a loader of its own. */
    static final class Loader extends ClassLoader {
        Class<?> define(String name) throws Exception {
            String file = "/" + name.replace('.', '/') + ".class";
            try (InputStream in = Exercise.class.getResourceAsStream(file)) {
                byte[] bytes = in.readAllBytes();
                return defineClass(name, bytes, 0, bytes.length);
            }
        }
    }

    /** Loaded for the first time by a request. */
    public static final class Fresh implements Callable<Long> {
        static final ConcurrentHashMap<String, Long> MAP = new ConcurrentHashMap<>();

        @Override
        public Long call() {
            return MAP.merge("one", 1L, Long::sum);
        }
    }

    static long classes(long seed) throws Exception {
        long sum = seed + new Fresh().call() - Fresh.MAP.get("one");
        for (int i = 0; i < 3; i++) {
            Class<?> fresh = new Loader().define("Exercise$Fresh");
            if (fresh == Fresh.class) throw new IllegalStateException("the same class");
            Object made = fresh.getConstructor().newInstance();
            sum += (Long) ((Callable<?>) made).call();
        }
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        byte[] hash = digest.digest(Long.toString(seed).getBytes(StandardCharsets.UTF_8));
        return sum + (hash.length == 32 ? 1 : 0) + URI.create("http://a/b").getPath().length();
    }

    /** Writes a file, reads it back, removes it. */
    static long files(long seed) throws Exception {
        Path path = Files.createTempFile("exercise", ".txt");
        try {
            List<String> lines = new ArrayList<>();
            for (int i = 0; i < 1000; i++) lines.add(Long.toString(seed + i));
            Files.write(path, lines);
            long sum = 0;
            for (String line : Files.readAllLines(path)) sum += Long.parseLong(line);
            return sum;
        } finally {
            Files.delete(path);
        }
    }

    /** Starts a program and reads what it says. */
    static String exec(long seed) throws Exception {
        Process process = new ProcessBuilder("/bin/sh", "-c", "read x; echo $((x + 1))").start();
        process.getOutputStream().write((seed + "\n").getBytes(StandardCharsets.UTF_8));
        process.getOutputStream().close();
        String said = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        int status = process.waitFor();
        return said.trim() + "/" + status;
    }

    /** One value of before the capture, then secrets: two had a source then. */
    static String random(String query) {
        return BORN + " " + UUID.randomUUID() + " " + SECURE.nextLong() + " "
            + new SecureRandom().nextLong();
    }

    /** What the caller handed over, as the virtual machine sees it. */
    static String environment(String query) {
        return System.getenv(query) + "\n" + System.getProperty("user.dir") + "\n"
            + ProcessHandle.current().pid();
    }
}
