import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;
import java.util.SplittableRandom;
import java.util.TimeZone;
import java.util.UUID;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Tool COMMAND [ARG...]: small programs for the tests of the JVM agent, each
 * of which does one thing that a capture at main, or a training, may break.
 */
public class Tool {
    /** Read by the static initialiser, before main. */
    static final String EARLY = System.getenv("GREETING");
    static final ThreadLocal<Integer> LOCAL = ThreadLocal.withInitial(() -> 0);
    static int runs;

    public static void main(String[] args) throws Exception {
        switch (args.length == 0 ? "" : args[0]) {
            case "show": show(args); break;
            case "exit": System.exit(Integer.parseInt(args[1])); break;
            case "halt": Runtime.getRuntime().halt(Integer.parseInt(args[1])); break;
            case "finally":
                try {
                    System.exit(3);
                } finally {
                    System.out.println("never in a plain run");
                }
                break;
            case "other":
                new Thread(() -> System.exit(4)).start();
                Thread.sleep(600_000);
                break;
            case "worker":
                new Thread(() -> { pause(50); System.out.println("worked"); System.exit(5); }).start();
                break;
            case "throw": fail(args[1]); break;
            case "thread-throws":
                Thread thread = new Thread(() -> fail(args[1]));
                thread.start();
                thread.join();
                System.out.println("main goes on");
                break;
            case "initializer": System.out.println(Broken.VALUE); break;
            case "handler":
                Thread.setDefaultUncaughtExceptionHandler((t, e) -> {
                    System.out.println("handled " + t.getName() + " " + e.getMessage());
                    System.exit(6);
                });
                throw new IllegalStateException(args[1]);
            case "close":
                System.out.println("before");
                System.err.println("error");
                System.out.close();
                System.in.close();
                System.err.close();
                System.out.println("after");
                break;
            case "descriptor":
                System.out.println("before");
                new java.io.FileOutputStream(java.io.FileDescriptor.out).close();
                System.out.println("after");
                break;
            case "redirect":
                System.setOut(new PrintStream(new ByteArrayOutputStream()));
                System.setErr(System.out);
                System.out.println("nowhere");
                break;
            case "unflushed":
                System.setOut(new PrintStream(new java.io.BufferedOutputStream(System.out)));
                System.out.print("lost");
                break;
            case "hooks":
                Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("hook " + args[1])));
                System.out.println("main");
                if (args.length > 2) System.exit(7);
                break;
            case "static-hook":
                Hooked.greet();
                break;
            case "logging":
                java.util.logging.Handler log = new java.util.logging.FileHandler(args[1]);
                java.util.logging.Logger.getLogger("tool").addHandler(log);
                java.util.logging.Logger.getLogger("tool").setUseParentHandlers(false);
                java.util.logging.Logger.getLogger("tool").info("logged");
                break;
            case "daemon":
                Thread daemon = new Thread(() -> pause(600_000), "sleeper");
                daemon.setDaemon(true);
                daemon.start();
                System.out.println(daemon.isAlive());
                break;
            case "left":
                for (String name : new String[] {"worker-1", "worker-2"})
                    new Thread(() -> pause(600_000), name).start();
                break;
            case "late":
                new Thread(() -> { pause(100); System.out.println("late " + args[1]); }).start();
                System.out.println("main ends");
                break;
            case "stdin": copy(System.in); break;
            case "defaults": defaults(args); break;
            case "child": child(args); break;
            case "temporary": temporary(); break;
            case "names": names(); break;
            case "count": System.out.println("run " + ++runs + " early " + EARLY); break;
            case "catch":
                while (true) {
                    try {
                        System.exit(8);
                    } catch (Throwable t) {
                        // As a read-eval-print loop does.
                    }
                }
            case "caught":
                try {
                    System.exit(0);
                } catch (Throwable t) {
                    System.exit(9);
                }
                break;
            case "hang": pause(600_000); break;
            case "random": random(); break;
            case "seeds": seeds(); break;
            default: System.out.println("no command " + Arrays.asList(args));
        }
    }

    static void show(String[] args) throws IOException {
        System.out.println(args.length + " " + Arrays.toString(args));
        System.out.println(EARLY + " " + System.getenv("GREETING") + " " + System.getenv("TRAINING"));
        for (Map.Entry<String, String> entry : System.getenv().entrySet())
            System.out.println(entry.getKey() + "=" + entry.getValue());
        System.out.println(System.getProperty("user.dir"));
        System.out.println(System.getProperty("sun.java.command"));
        System.out.println(new File("here.txt").getAbsolutePath());
        System.out.println(new File("here.txt").getCanonicalPath());
        System.out.println(new File("").getAbsoluteFile().toURI());
        System.out.println(new File("here.txt").length());
        System.out.println(Paths.get("here.txt").toAbsolutePath());
        System.out.println(Paths.get("here.txt").toRealPath());
        System.out.println(Paths.get("here.txt").toUri());
        System.out.println(Files.exists(Paths.get("here.txt")));
        System.out.println(new String(Files.readAllBytes(Paths.get("here.txt")), StandardCharsets.UTF_8));
        try (InputStream file = new FileInputStream("here.txt")) {
            copy(file);
        }
        for (String name : new String[] {"cmdline", "environ"}) {
            byte[] bytes = Files.readAllBytes(Paths.get("/proc/self", name));
            System.out.println(new String(bytes, StandardCharsets.UTF_8).replace('\0', '|'));
        }
        System.out.println(Paths.get("/proc/self/cwd").toRealPath());
    }

    static void fail(String message) {
        throw new IllegalStateException(message, new IOException("the cause"));
    }

    static class Broken {
        static final int VALUE = Integer.parseInt("no number");
    }

    static class Hooked {
        static {
            Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("static hook")));
        }

        static void greet() {
            System.out.println("hooked");
        }
    }

    static void pause(long ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException e) {
            System.out.println("interrupted");
        }
    }

    static void copy(InputStream from) throws IOException {
        byte[] bytes = new byte[1000];
        for (int len; (len = from.read(bytes)) > 0; ) System.out.write(bytes, 0, len);
        System.out.flush();
    }

    static void defaults(String[] args) {
        System.out.println(Locale.getDefault() + " " + Locale.getDefault(Locale.Category.FORMAT));
        System.out.println(String.format("%,.2f", 1234567.891));
        System.out.println(TimeZone.getDefault().getID() + " " + System.getProperty("user.timezone"));
        System.out.println(System.getProperty("tool.property") + " " + System.getProperty("line.separator").length());
        System.out.println(Thread.currentThread().getName() + " " + Thread.currentThread().getPriority());
        System.out.println(Thread.interrupted() + " " + LOCAL.get());
        System.out.println(Thread.currentThread().getContextClassLoader() == ClassLoader.getSystemClassLoader());
        System.out.println(Thread.getDefaultUncaughtExceptionHandler());
        System.out.println(System.console() != null);
        Locale.setDefault(Locale.GERMANY);
        TimeZone.setDefault(TimeZone.getTimeZone("Asia/Tokyo"));
        System.setProperty("tool.property", args[1]);
        System.setProperty("line.separator", "\r\n");
        System.getProperties().remove("java.vendor.url");
        Thread.currentThread().setName("renamed");
        Thread.currentThread().setPriority(7);
        Thread.currentThread().setContextClassLoader(null);
        Thread.currentThread().interrupt();
        Thread.setDefaultUncaughtExceptionHandler((t, e) -> { });
        LOCAL.set(1);
    }

    static void child(String[] args) throws Exception {
        String script = "pwd; echo \"$GREETING $0\"; echo error >&2; ls /proc/self/fd | wc -l; exit 3";
        Process process = new ProcessBuilder("/bin/sh", "-c", script, args[1]).inheritIO().start();
        System.out.println(process.waitFor());
    }

    static void temporary() throws IOException {
        File file = new File("temporary.txt");
        file.deleteOnExit();
        System.out.println(file.exists());
        Files.write(file.toPath(), new byte[3]);
        System.out.println(file.length());
    }

    static void names() throws Exception {
        System.out.println(new Thread().getName());
        System.out.println(new Thread().getName());
        java.util.concurrent.ExecutorService pool = java.util.concurrent.Executors.newFixedThreadPool(1);
        pool.submit(() -> System.out.println(Thread.currentThread().getName())).get();
        pool.shutdown();
        pool.awaitTermination(10, java.util.concurrent.TimeUnit.SECONDS);
        java.util.Timer timer = new java.util.Timer();
        timer.schedule(new java.util.TimerTask() {
            public void run() {
                System.out.println(Thread.currentThread().getName());
                timer.cancel();
            }
        }, 0);
    }

    static void random() throws Exception {
        List<Integer> list = new ArrayList<>();
        for (int i = 0; i < 40; i++) list.add(i);
        Collections.shuffle(list);
        System.out.println("shuffle " + list);
        System.out.println("math " + Math.random());
        System.out.println("new " + new Random().nextLong());
        System.out.println("split " + new SplittableRandom().nextLong());
        System.out.println("local " + ThreadLocalRandom.current().nextLong());
        System.out.println("uuid " + UUID.randomUUID());
        System.out.println("secure " + new java.security.SecureRandom().nextLong());
        Path file = Files.createTempFile("tool", null);
        Files.delete(file);
        System.out.println("file " + file.getFileName());
    }

    static void seeds() throws Exception {
        System.out.println("local " + field(ThreadLocalRandom.class, "seeder", null));
        System.out.println("new " + field(Random.class, "seedUniquifier", null));
        System.out.println("split " + field(SplittableRandom.class, "defaultGen", null));
        System.out.println("thread " + field(Thread.class, "threadLocalRandomSeed", Thread.currentThread()));
        Object random = field(Class.forName("java.lang.Math$RandomNumberGeneratorHolder"), "randomNumberGenerator", null);
        System.out.println("math " + field(Random.class, "seed", random));
        Object source = field(Class.forName("sun.security.provider.NativePRNG"), "INSTANCE", null);
        System.out.println("buffered " + field(source.getClass(), "buffered", source));
        System.out.println("shuffle " + field(Random.class, "seed", field(Collections.class, "r", null)));
    }

    static Object field(Class<?> in, String name, Object of) throws Exception {
        java.lang.reflect.Field field = in.getDeclaredField(name);
        field.setAccessible(true);
        return field.get(of);
    }
}
